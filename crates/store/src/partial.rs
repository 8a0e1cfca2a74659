use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::PathBuf,
    sync::Mutex,
};

use lemma_types::Digest;

use crate::{BlobStore, GROUP_BYTES, Outline};

/// A transfer that is not complete: a sparse file, and which of its groups are present.
///
/// Beside `….part` lie `….groups` (one byte for each group, 1 if it is present) and `….outline`. Neither is synced while
/// the transfer runs: whatever a crash leaves, a group counts as present only after it was checked again.
pub(crate) struct Partial {
    store: BlobStore,
    outline: Outline,
    files: Mutex<Files>,
}

struct Files {
    data: File,
    groups: File,
    present: Vec<bool>,
}

const PRESENT: u8 = 1;

/// Waits for the sole right to transfer a blob, against other tasks and other processes. Held until dropped.
pub(crate) struct TransferLock {
    data: File,
}

impl TransferLock {
    /// Blocks until nobody else transfers this blob.
    pub(crate) fn acquire(store: &BlobStore, digest: &Digest) -> io::Result<Self> {
        let data = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(store.partial_path(digest, "part"))?;
        data.lock()?;
        Ok(Self { data })
    }
}

/// The outline that an earlier transfer saved, if it still merges to the digest.
pub(crate) fn saved_outline(store: &BlobStore, digest: Digest, size: u64) -> Option<Outline> {
    let mut bytes = Vec::new();
    File::open(store.partial_path(&digest, "outline"))
        .ok()?
        .take(Outline::encoded_len(size) + 1)
        .read_to_end(&mut bytes)
        .ok()?;
    Outline::decode(digest, size, &bytes).ok()
}

impl Partial {
    /// Goes on where an earlier transfer ended. Every group that is said to be present is read and checked.
    pub(crate) fn resume(
        store: &BlobStore,
        outline: Outline,
        lock: TransferLock,
    ) -> io::Result<Self> {
        let digest = outline.digest();
        let mut data = lock.data;
        data.set_len(outline.size())?;
        fs::write(store.partial_path(&digest, "outline"), outline.encode())?;
        let mut groups = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(store.partial_path(&digest, "groups"))?;
        let mut marks = Vec::new();
        (&mut groups)
            .take(outline.groups())
            .read_to_end(&mut marks)?;
        marks.resize(outline.groups() as usize, 0);
        let mut present = vec![false; marks.len()];
        let mut buffer = Vec::with_capacity(GROUP_BYTES as usize);
        for (group, mark) in (0..).zip(&marks) {
            if *mark == PRESENT {
                read_group(&mut data, &outline, group, &mut buffer)?;
                present[group as usize] = outline.matches(group, &buffer);
            }
        }
        groups.set_len(outline.groups())?;
        groups.seek(SeekFrom::Start(0))?;
        groups.write_all(
            &present
                .iter()
                .map(|here| u8::from(*here))
                .collect::<Vec<_>>(),
        )?;
        let files = Mutex::new(Files {
            data,
            groups,
            present,
        });
        Ok(Self {
            store: store.clone(),
            outline,
            files,
        })
    }

    pub(crate) const fn outline(&self) -> &Outline {
        &self.outline
    }

    fn files(&self) -> std::sync::MutexGuard<'_, Files> {
        self.files.lock().expect("no holder of this lock panics")
    }

    /// Groups that are still to be fetched, ascending.
    pub(crate) fn missing(&self) -> Vec<u64> {
        let files = self.files();
        (0..)
            .zip(&files.present)
            .filter(|(_, here)| !**here)
            .map(|(group, _)| group)
            .collect()
    }

    /// Checks a group and, if it is right, keeps it. Returns whether it was.
    pub(crate) fn keep(&self, group: u64, bytes: &[u8]) -> io::Result<bool> {
        if !self.outline.matches(group, bytes) {
            return Ok(false);
        }
        let (start, _) = self.outline.group_range(group);
        let mut files = self.files();
        files.data.seek(SeekFrom::Start(start))?;
        files.data.write_all(bytes)?;
        files.groups.seek(SeekFrom::Start(group))?;
        files.groups.write_all(&[PRESENT])?;
        files.present[group as usize] = true;
        Ok(true)
    }

    /// Makes the complete file a blob.
    pub(crate) fn complete(self) -> io::Result<()> {
        let digest = self.outline.digest();
        let path = |extension| -> PathBuf { self.store.partial_path(&digest, extension) };
        self.files().data.sync_all()?;
        self.store.adopt(&path("part"), &self.outline)?;
        for extension in ["groups", "outline"] {
            fs::remove_file(path(extension))?;
        }
        Ok(())
    }
}

fn read_group(
    data: &mut File,
    outline: &Outline,
    group: u64,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    let (start, length) = outline.group_range(group);
    buffer.clear();
    data.seek(SeekFrom::Start(start))?;
    data.take(length).read_to_end(buffer)?;
    Ok(())
}
