//! A model's files in memory: weights are mapped, so that their bytes are in memory once and not beside what is made of
//! them; the rest is small and read whole.

use std::{io, ops::Deref, path::Path};

use lemma_llm::{
    FileMap,
    gguf::{Gguf, GgufError},
    safetensors::{self, SafetensorsError},
    tensors::Tensors,
};
use lemma_store::{BlobStore, StoreError};
use lemma_types::{Manifest, manifest::File};

use crate::model::{LoadError, read};

/// What a file holds.
#[derive(Debug)]
pub enum Content {
    /// Mapped from a disk. The file has to stay as it is.
    Mapped(FileMap),
    /// Read whole.
    Bytes(Vec<u8>),
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// Paths and contents of the files of a model.
#[derive(Debug, Default)]
pub struct ModelFiles(Vec<(String, Content)>);

impl ModelFiles {
    /// The files with these paths in a folder.
    ///
    /// # Errors
    /// The path of the file that can not be read, and why.
    pub fn open(
        folder: &Path,
        paths: impl IntoIterator<Item = String>,
    ) -> Result<Self, (String, io::Error)> {
        let mut files = Vec::new();
        for path in paths {
            match content(&path, &folder.join(&path)) {
                Ok(content) => files.push((path, content)),
                Err(error) => return Err((path, error)),
            }
        }
        Ok(Self(files))
    }

    /// The files that a manifest names, each checked against its digest.
    pub(crate) fn stored(manifest: &Manifest, store: &BlobStore) -> Result<Self, LoadError> {
        let one = |file: &File| {
            let content = match is_weights(&file.path) {
                true => Content::Mapped(mapped(store, file).map_err(|error| LoadError::File {
                    path: file.path.clone(),
                    error,
                })?),
                false => Content::Bytes(read(store, file)?),
            };
            Ok((file.path.clone(), content))
        };
        manifest
            .files
            .iter()
            .map(one)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The file whose path ends in this one; if there are several, that with the shortest path. A model may lie in a folder of
    /// folders.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<&[u8]> {
        let named = |(full, _): &&(String, Content)| {
            full.strip_suffix(path)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
        };
        let found = self
            .0
            .iter()
            .filter(named)
            .min_by_key(|(full, _)| full.len());
        found.map(|(_, content)| &**content)
    }

    /// The first GGUF file, parsed; `None` if there is none.
    ///
    /// # Errors
    /// [`GgufError`] says what is wrong with it.
    pub fn gguf(&self) -> Result<Option<Gguf<'_>>, GgufError> {
        match self.0.iter().find(|(path, _)| is_gguf(path)) {
            Some((_, Content::Mapped(map))) => Gguf::map(map).map(Some),
            Some((_, Content::Bytes(bytes))) => Gguf::parse(bytes).map(Some),
            None => Ok(None),
        }
    }

    /// The tensors of all safetensors files; `None` if there is no such file.
    ///
    /// # Errors
    /// [`SafetensorsError`] says what is wrong with one.
    pub fn tensors(&self) -> Result<Option<Tensors<'_>>, SafetensorsError> {
        let mut files = self
            .0
            .iter()
            .filter(|(path, _)| is_safetensors(path))
            .peekable();
        if files.peek().is_none() {
            return Ok(None);
        }
        let mut tensors = Tensors::default();
        for (_, content) in files {
            safetensors::read(content, &mut tensors)?;
            if let Content::Mapped(map) = content {
                tensors.mapped(map);
            }
        }
        Ok(Some(tensors))
    }
}

/// For files that are in memory anyway.
impl FromIterator<(String, Vec<u8>)> for ModelFiles {
    fn from_iter<I: IntoIterator<Item = (String, Vec<u8>)>>(files: I) -> Self {
        let content = |(path, bytes)| (path, Content::Bytes(bytes));
        Self(files.into_iter().map(content).collect())
    }
}

/// Whether a path names a GGUF file.
#[must_use]
pub fn is_gguf(path: &str) -> bool {
    path.to_ascii_lowercase().ends_with(".gguf")
}

fn is_safetensors(path: &str) -> bool {
    path.ends_with(".safetensors")
}

fn is_weights(path: &str) -> bool {
    is_gguf(path) || is_safetensors(path)
}

fn content(path: &str, file: &Path) -> io::Result<Content> {
    match is_weights(path) {
        true => FileMap::open(file).map(Content::Mapped),
        false => std::fs::read(file).map(Content::Bytes),
    }
}

/// Checks a blob piece by piece, then maps it.
fn mapped(store: &BlobStore, file: &File) -> Result<FileMap, StoreError> {
    let limit = file.size;
    if store.size(&file.blake3).is_some_and(|size| size > limit) {
        return Err(StoreError::TooLarge { limit });
    }
    store.verify(&file.blake3)?;
    Ok(FileMap::open(&store.path(&file.blake3))?)
}
