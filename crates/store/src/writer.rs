use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
};

use lemma_types::Digest;

use crate::{
    blob_store::{BlobStore, StoreError},
    outline::OutlineBuilder,
};

/// A blob in the making: a temporary file that becomes a blob when it is [`finish`](Self::finish)ed, or vanishes.
pub struct BlobWriter {
    store: BlobStore,
    file: File,
    path: PathBuf,
    limit: u64,
    builder: OutlineBuilder,
}

impl BlobWriter {
    pub(crate) fn new(store: BlobStore, limit: u64) -> io::Result<Self> {
        let path = store.temporary_path();
        let file = File::create_new(&path)?;
        Ok(Self {
            store,
            file,
            path,
            limit,
            builder: OutlineBuilder::default(),
        })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] beyond the limit, or the disk's error.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let size = self.builder.size().saturating_add(bytes.len() as u64);
        if size > self.limit {
            return Err(StoreError::TooLarge { limit: self.limit });
        }
        self.file.write_all(bytes)?;
        self.builder.update(bytes);
        Ok(())
    }

    /// Makes the blob durable and returns its digest. If `expected` is given, any other digest is an error and nothing is
    /// kept.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`], or the disk's error.
    pub fn finish(mut self, expected: Option<Digest>) -> Result<Digest, StoreError> {
        let outline = std::mem::take(&mut self.builder).finish();
        let actual = outline.digest();
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            return Err(StoreError::Mismatch { expected, actual });
        }
        self.file.sync_all()?;
        self.store.adopt(&self.path, &outline)?;
        Ok(actual)
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // Already gone if it became a blob. A file that can not be removed is swept at the next start.
        let _ = fs::remove_file(&self.path);
    }
}
