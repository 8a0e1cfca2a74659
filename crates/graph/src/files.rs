//! Where external weights come from: files beside the model.

use std::collections::BTreeMap;

/// Files beside a model, by their path relative to it. The importer hands in only relative paths
/// of plain components (no `..`, no root, no drive, no backslash), separated by `/`.
pub trait Files {
    /// The size of a file, bytes.
    ///
    /// # Errors
    /// A text that says why there is no such file.
    fn size(&self, path: &str) -> Result<u64, String>;

    /// Exactly `length` bytes from `offset`. Both lie within the size of the file.
    ///
    /// # Errors
    /// A text that says why the bytes cannot be had.
    fn read(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>, String>;
}

/// No files: a model has to carry its weights.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFiles;

impl Files for NoFiles {
    fn size(&self, _path: &str) -> Result<u64, String> {
        Err("there are no files beside this model".into())
    }

    fn read(&self, path: &str, _offset: u64, _length: usize) -> Result<Vec<u8>, String> {
        self.size(path).map(|_| Vec::new())
    }
}

/// Files held in memory, by path.
impl Files for BTreeMap<String, Vec<u8>> {
    fn size(&self, path: &str) -> Result<u64, String> {
        match self.get(path) {
            Some(bytes) => Ok(bytes.len() as u64),
            None => Err("there is no such file".into()),
        }
    }

    fn read(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>, String> {
        let bytes = self.get(path).ok_or("there is no such file")?;
        usize::try_from(offset)
            .ok()
            .and_then(|start| bytes.get(start..start.checked_add(length)?))
            .map(<[u8]>::to_vec)
            .ok_or_else(|| "the range lies outside the file".into())
    }
}

/// Files in a folder of the file system. A path that leads out of the folder through a symbolic
/// link is refused.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Clone, Debug)]
pub struct Folder {
    root: std::path::PathBuf,
}

#[cfg(not(target_arch = "wasm32"))]
impl Folder {
    /// The files below `root`.
    #[must_use]
    pub fn new(root: impl Into<std::path::PathBuf>) -> Folder {
        Folder { root: root.into() }
    }

    fn open(&self, path: &str) -> std::io::Result<std::fs::File> {
        let root = self.root.canonicalize()?;
        let full = root.join(path).canonicalize()?;
        if !full.starts_with(&root) {
            return Err(std::io::Error::other("the path leads out of the folder"));
        }
        std::fs::File::open(full)
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Files for Folder {
    fn size(&self, path: &str) -> Result<u64, String> {
        let meta = self.open(path).and_then(|file| file.metadata());
        match meta {
            Ok(meta) if meta.is_file() => Ok(meta.len()),
            Ok(_) => Err("it is not a regular file".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn read(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>, String> {
        use std::io::{Read, Seek, SeekFrom};
        let read = || {
            let mut file = self.open(path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = vec![0; length];
            file.read_exact(&mut bytes)?;
            Ok::<_, std::io::Error>(bytes)
        };
        read().map_err(|error| error.to_string())
    }
}
