use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use lemma_types::Digest;

use crate::{
    outline::{GROUP_BYTES, Outline, OutlineBuilder},
    writer::BlobWriter,
};

/// Blobs in a directory, named by their BLAKE3 digest. Clones share it.
///
/// ```text
/// blobs/ab/ab12…            the blob
/// outlines/ab/ab12…         its outline, for blobs of more than one group; made again if it is missing
/// partial/ab12….part        a transfer that is not complete, see the fetcher
/// tmp/…                     files in the making, swept at start
/// ```
///
/// A blob appears by a rename after its bytes are on disk, so what is there is whole: a crash leaves at most temporary
/// files. Methods block on the disk, except where they are `async`.
#[derive(Clone, Debug)]
pub struct BlobStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    /// Distinguishes temporary files of this process.
    counter: AtomicU64,
}

/// Why the store can not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk's error.
    #[error("the blob store's disk: {0}")]
    Disk(#[from] io::Error),
    /// More bytes than the caller allows.
    #[error("the content is larger than the {limit} bytes that are accepted")]
    TooLarge {
        /// Bytes allowed.
        limit: u64,
    },
    /// The content has another digest.
    #[error("the content has digest {actual}, expected {expected}")]
    Mismatch {
        /// The digest that was stated.
        expected: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
    /// There is no such blob.
    #[error("blob {0} is not in the store")]
    NotFound(Digest),
    /// The bytes on disk are not those that were stored.
    #[error("blob {0} is damaged on disk: remove it and fetch it again")]
    Damaged(Digest),
    /// A stream of content failed.
    #[error("the content could not be read: {0}")]
    Stream(String),
}

impl BlobStore {
    /// Opens the store in `directory`, which is made if it does not exist, and sweeps leftovers of a crash.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let directory = directory.into();
        for part in ["blobs", "outlines", "partial", "tmp"] {
            fs::create_dir_all(directory.join(part))?;
        }
        for entry in fs::read_dir(directory.join("tmp"))? {
            fs::remove_file(entry?.path())?;
        }
        Ok(Self {
            inner: Arc::new(Inner {
                directory,
                counter: AtomicU64::new(0),
            }),
        })
    }

    fn place(&self, part: &str, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.inner.directory.join(part).join(&name[..2]).join(name)
    }

    pub(crate) fn temporary_path(&self) -> PathBuf {
        let number = self.inner.counter.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", std::process::id());
        self.inner.directory.join("tmp").join(name)
    }

    pub(crate) fn partial_path(&self, digest: &Digest, extension: &str) -> PathBuf {
        self.inner
            .directory
            .join("partial")
            .join(format!("{digest}.{extension}"))
    }

    /// Where the blob is, or would be. The file must not be changed.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.place("blobs", digest)
    }

    /// Whether the blob is here.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// The blob's size, bytes; `None` if it is not here.
    #[must_use]
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        let metadata = fs::metadata(self.path(digest)).ok()?;
        metadata.is_file().then_some(metadata.len())
    }

    /// Begins a blob of at most `limit` bytes.
    ///
    /// # Errors
    /// The disk's.
    pub fn writer(&self, limit: u64) -> Result<BlobWriter, StoreError> {
        Ok(BlobWriter::new(self.clone(), limit)?)
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// The disk's.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let mut writer = self.writer(bytes.len() as u64)?;
        writer.write(bytes)?;
        writer.finish(None)
    }

    /// Stores a copy of a file of at most `limit` bytes.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], or the disk's.
    pub fn put_file(&self, path: &Path, limit: u64) -> Result<Digest, StoreError> {
        let mut writer = self.writer(limit)?;
        let mut file = File::open(path)?;
        let mut buffer = vec![0; GROUP_BYTES as usize];
        loop {
            match file.read(&mut buffer)? {
                0 => return writer.finish(None),
                count => writer.write(&buffer[..count])?,
            }
        }
    }

    /// Stores a stream of at most `limit` bytes. If `expected` is given, any other content is refused.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Mismatch`], [`StoreError::Stream`] or the disk's. Nothing is kept then.
    pub async fn put_stream<E: std::fmt::Display>(
        &self,
        content: impl Stream<Item = Result<Bytes, E>>,
        limit: u64,
        expected: Option<Digest>,
    ) -> Result<Digest, StoreError> {
        let mut content = std::pin::pin!(content);
        let mut writer = self.writer(limit)?;
        while let Some(bytes) = content.next().await {
            let bytes = bytes.map_err(|error| StoreError::Stream(error.to_string()))?;
            writer = blocking(move || writer.write(&bytes).map(|()| writer)).await?;
        }
        blocking(move || writer.finish(expected)).await
    }

    /// Makes a complete, synced file of the store's directory the blob of this outline.
    pub(crate) fn adopt(&self, file: &Path, outline: &Outline) -> io::Result<()> {
        let digest = outline.digest();
        if outline.groups() > 1 {
            self.write_outline(outline)?;
        }
        rename_durably(file, &self.path(&digest))
    }

    fn write_outline(&self, outline: &Outline) -> io::Result<()> {
        let path = self.temporary_path();
        fs::write(&path, outline.encode())?;
        rename_durably(&path, &self.place("outlines", &outline.digest()))
    }

    /// Opens the blob for reading `range` of it, clipped to its size.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or the disk's.
    pub fn open_range(
        &self,
        digest: &Digest,
        start: u64,
        length: u64,
    ) -> Result<BlobReader, StoreError> {
        let mut file = self.open_file(digest)?;
        let size = file.metadata()?.len();
        let start = start.min(size);
        file.seek(SeekFrom::Start(start))?;
        Ok(BlobReader {
            file,
            left: length.min(size - start),
            size,
        })
    }

    /// Opens the whole blob for reading.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or the disk's.
    pub fn open_read(&self, digest: &Digest) -> Result<BlobReader, StoreError> {
        self.open_range(digest, 0, u64::MAX)
    }

    fn open_file(&self, digest: &Digest) -> Result<File, StoreError> {
        File::open(self.path(digest)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::NotFound(*digest),
            _ => StoreError::Disk(error),
        })
    }

    /// Reads the whole blob of at most `limit` bytes into memory and checks it against its digest.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::TooLarge`], [`StoreError::Damaged`], or the disk's.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let mut reader = self.open_read(digest)?;
        if reader.left > limit {
            return Err(StoreError::TooLarge { limit });
        }
        let mut bytes = Vec::with_capacity(reader.left as usize);
        reader.read_to_end(&mut bytes)?;
        if Digest::of(&bytes) != *digest {
            return Err(StoreError::Damaged(*digest));
        }
        Ok(bytes)
    }

    /// The blob's outline. Made from the blob, and kept, if it is not there yet.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Damaged`], or the disk's.
    pub fn outline(&self, digest: &Digest) -> Result<Outline, StoreError> {
        let size = self.size(digest).ok_or(StoreError::NotFound(*digest))?;
        if size <= GROUP_BYTES {
            return Ok(Outline::of_one_group(*digest, size));
        }
        if let Ok(bytes) = fs::read(self.place("outlines", digest))
            && let Ok(outline) = Outline::decode(*digest, size, &bytes)
        {
            return Ok(outline);
        }
        let outline = self.hash(digest)?;
        self.write_outline(&outline)?;
        Ok(outline)
    }

    /// Reads the blob and checks every byte of it against its digest.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Damaged`], or the disk's.
    pub fn verify(&self, digest: &Digest) -> Result<(), StoreError> {
        self.hash(digest).map(drop)
    }

    fn hash(&self, digest: &Digest) -> Result<Outline, StoreError> {
        let mut reader = self.open_read(digest)?;
        let mut builder = OutlineBuilder::default();
        let mut buffer = vec![0; GROUP_BYTES as usize];
        loop {
            match reader.read(&mut buffer)? {
                0 => break,
                count => builder.update(&buffer[..count]),
            }
        }
        let outline = builder.finish();
        if outline.digest() == *digest {
            Ok(outline)
        } else {
            Err(StoreError::Damaged(*digest))
        }
    }

    /// Removes the blob, if it is here. Who has it open can read on.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        for part in ["outlines", "blobs"] {
            match fs::remove_file(self.place(part, digest)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Digests of all blobs, sorted.
    ///
    /// # Errors
    /// The disk's.
    pub fn list(&self) -> Result<Vec<Digest>, StoreError> {
        let mut digests = Vec::new();
        for shelf in fs::read_dir(self.inner.directory.join("blobs"))? {
            for entry in fs::read_dir(shelf?.path())? {
                let name = entry?.file_name();
                digests.extend(name.to_str().and_then(|name| name.parse::<Digest>().ok()));
            }
        }
        digests.sort_unstable();
        Ok(digests)
    }
}

/// Reads a part of a blob. What it reads is not checked against the digest: that is the receiver's affair.
#[derive(Debug)]
pub struct BlobReader {
    file: File,
    left: u64,
    size: u64,
}

impl BlobReader {
    /// Bytes that are left to read.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// Size of the whole blob.
    #[must_use]
    pub const fn blob_size(&self) -> u64 {
        self.size
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.left.min(buffer.len() as u64) as usize;
        let count = self.file.read(&mut buffer[..most])?;
        self.left -= count as u64;
        Ok(count)
    }
}

/// Renames within one file system and makes the rename itself durable.
fn rename_durably(from: &Path, to: &Path) -> io::Result<()> {
    let shelf = to.parent().expect("places have a parent");
    fs::create_dir_all(shelf)?;
    fs::rename(from, to)?;
    // A directory is synced through a handle on it; where the system has none (Windows), the rename is journaled.
    #[cfg(unix)]
    File::open(shelf)?.sync_all()?;
    Ok(())
}

/// Runs disk work off the async threads.
pub(crate) async fn blocking<T: Send + 'static, E: From<io::Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::other("the work was cancelled: the program is stopping").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        (directory, store)
    }

    #[test]
    fn what_goes_in_comes_out() {
        let (directory, store) = store();
        for size in [0, 1, 5000, GROUP_BYTES, 2 * GROUP_BYTES + 3] {
            let content = vec![size as u8; size as usize];
            let digest = store.put_bytes(&content).unwrap();
            assert_eq!(digest, Digest::of(&content));
            assert_eq!(store.put_bytes(&content).unwrap(), digest);
            assert!(store.contains(&digest));
            assert_eq!(store.size(&digest), Some(size));
            assert_eq!(store.read(&digest, size).unwrap(), content);
            assert_eq!(store.outline(&digest).unwrap().digest(), digest);
            store.verify(&digest).unwrap();
        }
        assert_eq!(store.list().unwrap().len(), 5);
        assert_eq!(
            fs::read_dir(directory.path().join("tmp")).unwrap().count(),
            0
        );
        let again = BlobStore::open(directory.path()).unwrap();
        assert_eq!(again.list().unwrap(), store.list().unwrap());
    }

    #[test]
    fn limits_and_expectations_hold() {
        let (directory, store) = store();
        let path = directory.path().join("file");
        fs::write(&path, vec![1; 100]).unwrap();
        assert!(matches!(
            store.put_file(&path, 99),
            Err(StoreError::TooLarge { limit: 99 })
        ));
        let digest = store.put_file(&path, 100).unwrap();
        assert!(matches!(
            store.read(&digest, 99),
            Err(StoreError::TooLarge { .. })
        ));
        let mut writer = store.writer(10).unwrap();
        writer.write(b"x").unwrap();
        assert!(matches!(
            writer.finish(Some(digest)),
            Err(StoreError::Mismatch { .. })
        ));
        assert_eq!(store.list().unwrap(), vec![digest]);
        assert_eq!(
            fs::read_dir(directory.path().join("tmp")).unwrap().count(),
            0
        );
        assert!(matches!(
            store.read(&Digest::of(b"?"), 9),
            Err(StoreError::NotFound(_))
        ));
    }

    #[test]
    fn damage_on_disk_is_found() {
        let (_directory, store) = store();
        let digest = store.put_bytes(&vec![3; 3 << 20]).unwrap();
        let mut content = fs::read(store.path(&digest)).unwrap();
        content[2 << 20] ^= 1;
        fs::write(store.path(&digest), content).unwrap();
        assert!(matches!(store.verify(&digest), Err(StoreError::Damaged(_))));
        assert!(matches!(
            store.read(&digest, u64::MAX),
            Err(StoreError::Damaged(_))
        ));
        store.remove(&digest).unwrap();
        assert!(!store.contains(&digest));
    }

    #[test]
    fn a_lost_outline_is_made_again() {
        let (directory, store) = store();
        let digest = store.put_bytes(&vec![3; 3 << 20]).unwrap();
        let outline = store.outline(&digest).unwrap();
        fs::remove_dir_all(directory.path().join("outlines")).unwrap();
        assert_eq!(store.outline(&digest).unwrap(), outline);
        assert_eq!(store.outline(&digest).unwrap(), outline);
    }

    #[test]
    fn ranges_are_clipped() {
        let (_directory, store) = store();
        let digest = store.put_bytes(b"0123456789").unwrap();
        for (start, length, expected) in [
            (0, 3, "012"),
            (8, 100, "89"),
            (10, 1, ""),
            (u64::MAX, 1, ""),
        ] {
            let mut text = String::new();
            let mut reader = store.open_range(&digest, start, length).unwrap();
            assert_eq!(reader.blob_size(), 10);
            reader.read_to_string(&mut text).unwrap();
            assert_eq!(text, expected);
        }
    }

    #[tokio::test]
    async fn streams_are_bounded_and_checked() {
        let (_directory, store) = store();
        let pieces = |count: usize| {
            futures::stream::iter(
                (0..count).map(|_| Ok::<_, io::Error>(Bytes::from_static(b"abc"))),
            )
        };
        let digest = store.put_stream(pieces(2), 6, None).await.unwrap();
        assert_eq!(digest, Digest::of(b"abcabc"));
        assert!(matches!(
            store.put_stream(pieces(3), 6, None).await,
            Err(StoreError::TooLarge { .. })
        ));
        assert!(matches!(
            store.put_stream(pieces(1), 6, Some(digest)).await,
            Err(StoreError::Mismatch { .. })
        ));
        let broken = futures::stream::iter([Err::<Bytes, _>("cut")]);
        assert!(matches!(
            store.put_stream(broken, 6, None).await,
            Err(StoreError::Stream(_))
        ));
        assert_eq!(store.list().unwrap(), vec![digest]);
    }
}
