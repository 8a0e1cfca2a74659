//! Models as manifests describe them: made from an ONNX file, and loaded again from a content store.

use std::path::Path;

use lemma_graph::{
    Files, IMPORTER_VERSION, ImportError, Limits, Model, OpenError, RunError, compute_units,
};
use lemma_store::{BlobStore, StoreError};
use lemma_types::{
    Digest, Engine, Manifest,
    manifest::{File, Format, ManifestError, Royalty},
    tensor::{Dim, TensorSpec},
    upstream::{UpstreamModel, UpstreamModelError},
};
use std::io::Read as _;

use crate::{
    embedding::{self, Embedder, EmbeddingModelError},
    files::ModelFiles,
    integer::{self, IntegerModelError},
    language::{LanguageError, LanguageModel},
};

/// The engine of this program: what its receipts name.
#[must_use]
pub fn engine() -> Engine {
    Engine {
        numeric_spec: lemma_graph::NUMERIC_SPEC_VERSION,
        importer: IMPORTER_VERSION,
        runtime: concat!("lemma/", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

/// What an author says of a model that can not be read off its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// One paragraph for people.
    pub description: String,
    /// SPDX expression of the model's licence.
    pub licence: String,
    /// SPDX expression of the outputs' licence.
    pub output_licence: String,
    /// Who receives royalties.
    pub royalty: Option<Royalty>,
    /// The model that this one was made from.
    pub parent: Option<Digest>,
}

/// Why a model can not be had from a store.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The manifest names no model file.
    #[error("the manifest names no model file of its format")]
    NoModel,
    /// The manifest does not name the one file of a model that other servers answer for.
    #[error(
        "the manifest has to name one file, `{}` of at most {} bytes",
        UpstreamModel::PATH,
        UpstreamModel::MAX_BYTES
    )]
    NoUpstream,
    /// That file is none.
    #[error(transparent)]
    Upstream(#[from] UpstreamModelError),
    /// A file is not in the store, is damaged, or is too large.
    #[error("file `{path}`: {error}")]
    File {
        /// Its path in the manifest.
        path: String,
        /// What is wrong with it.
        error: StoreError,
    },
    /// The files together are larger than this node accepts.
    #[error("the model's files have {size} bytes: at most {limit} are accepted")]
    TooLarge {
        /// Bytes stated.
        size: u64,
        /// Bytes accepted.
        limit: u64,
    },
    /// Not a model that this engine can run.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Derived by other rules than this engine's.
    #[error(
        "the manifest was made by importer {found}: this engine has importer {IMPORTER_VERSION}"
    )]
    Importer {
        /// The manifest's version.
        found: u32,
    },
    /// What follows from the files is not what the manifest states.
    #[error(
        "manifest field `{field}` does not follow from the files: stated {stated}, derived {derived}"
    )]
    Mismatch {
        /// Which field.
        field: &'static str,
        /// What the manifest states.
        stated: String,
        /// What the files give.
        derived: String,
    },
    /// The cost of the model can not be computed.
    #[error(transparent)]
    Cost(#[from] RunError),
    /// The file is no quantised model.
    #[error(transparent)]
    Integer(#[from] IntegerModelError),
    /// The files are no embedding model.
    #[error(transparent)]
    Embedding(#[from] EmbeddingModelError),
    /// The files are no language model.
    #[error(transparent)]
    Language(#[from] LanguageError),
    /// A field of the manifest has a value that it can not have.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// What follows from a model's files, and its manifest has to state.
pub(crate) struct Derived {
    pub(crate) graph_root: Digest,
    pub(crate) inputs: Vec<TensorSpec>,
    pub(crate) outputs: Vec<TensorSpec>,
    pub(crate) compute_units: u64,
}

impl Derived {
    fn of(model: &Model) -> Result<Self, LoadError> {
        Ok(Self {
            graph_root: model.root(),
            inputs: model.inputs().to_vec(),
            outputs: model.outputs().to_vec(),
            compute_units: least_compute_units(model)?,
        })
    }

    /// Of a model whose inputs and outputs are text.
    pub(crate) const fn of_text(graph_root: Digest, compute_units: u64) -> Self {
        Self {
            graph_root,
            inputs: Vec::new(),
            outputs: Vec::new(),
            compute_units,
        }
    }

    /// The manifest of the model that has these files.
    pub(crate) fn manifest(
        self,
        format: Format,
        mut files: Vec<File>,
        terms: Terms,
    ) -> Result<Manifest, LoadError> {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let manifest = Manifest {
            schema: Manifest::SCHEMA.to_owned(),
            format,
            files,
            graph_root: self.graph_root,
            importer: IMPORTER_VERSION,
            inputs: self.inputs,
            outputs: self.outputs,
            compute_units: self.compute_units,
            licence: terms.licence,
            output_licence: terms.output_licence,
            description: terms.description,
            royalty: terms.royalty,
            parent: terms.parent,
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// Refuses a manifest that states anything else.
    pub(crate) fn check(&self, manifest: &Manifest) -> Result<(), LoadError> {
        let mismatch = |field, stated: &dyn ToString, derived: &dyn ToString| LoadError::Mismatch {
            field,
            stated: stated.to_string(),
            derived: derived.to_string(),
        };
        let tensors =
            |field, stated, derived| mismatch(field, &signature(stated), &signature(derived));
        if manifest.graph_root != self.graph_root {
            return Err(mismatch(
                "graph_root",
                &manifest.graph_root,
                &self.graph_root,
            ));
        }
        if manifest.inputs != self.inputs {
            return Err(tensors("inputs", &manifest.inputs, &self.inputs));
        }
        if manifest.outputs != self.outputs {
            return Err(tensors("outputs", &manifest.outputs, &self.outputs));
        }
        if manifest.compute_units != self.compute_units {
            let (stated, derived) = (&manifest.compute_units, &self.compute_units);
            return Err(mismatch("compute_units", stated, derived));
        }
        Ok(())
    }
}

/// Makes the manifest of a model. `files` are all its files; the first whose path ends in `.onnx` must be the one that
/// `model` was loaded from.
///
/// # Errors
/// [`LoadError::Cost`], or [`LoadError::Manifest`] if a path or text is not acceptable.
pub fn manifest(model: &Model, files: Vec<File>, terms: Terms) -> Result<Manifest, LoadError> {
    Derived::of(model)?.manifest(Format::Onnx, files, terms)
}

/// Work of one inference with every symbolic dimension 1.
fn least_compute_units(model: &Model) -> Result<u64, LoadError> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => *size as usize,
        Dim::Symbol(_) => 1,
    };
    let shape = |spec: &TensorSpec| spec.shape.iter().map(size).collect();
    let shapes: Vec<Vec<usize>> = model.inputs().iter().map(shape).collect();
    Ok(compute_units(model.cost(&shapes)?))
}

/// Size of all files of a manifest together, bytes.
#[must_use]
pub fn total_bytes(manifest: &Manifest) -> u64 {
    manifest
        .files
        .iter()
        .fold(0, |sum, file| file.size.saturating_add(sum))
}

/// A model of any kind, in memory.
pub enum AnyModel {
    /// Tensors in, tensors out.
    Graph(Box<Model>),
    /// The same on integers, registered with the proof system.
    Integer(Box<lemma_proof::Model>),
    /// Texts in, vectors out.
    Embedding(Box<Embedder>),
    /// Text in, text out.
    Language(Box<LanguageModel>),
    /// Text in, text out, by another server.
    Upstream(UpstreamModel),
}

/// Loads a model of any kind, as [`load`] does.
///
/// # Errors
/// See [`LoadError`].
pub fn load_any(
    manifest: &Manifest,
    store: &BlobStore,
    max_bytes: u64,
) -> Result<AnyModel, LoadError> {
    if manifest.format.is_relayed() {
        return Ok(AnyModel::Upstream(load_upstream(
            manifest, store, max_bytes,
        )?));
    }
    if manifest.format.is_text() {
        let language = load_language(manifest, store, max_bytes)?;
        return Ok(AnyModel::Language(Box::new(language)));
    }
    if manifest.format == Format::Integer {
        check_bounds(manifest, max_bytes)?;
        return Ok(AnyModel::Integer(Box::new(integer::load(manifest, store)?)));
    }
    if manifest.format == Format::Embedding {
        check_bounds(manifest, max_bytes)?;
        return Ok(AnyModel::Embedding(Box::new(embedding::load(
            manifest, store,
        )?)));
    }
    Ok(AnyModel::Graph(Box::new(load(manifest, store, max_bytes)?)))
}

fn check_bounds(manifest: &Manifest, max_bytes: u64) -> Result<(), LoadError> {
    let size = total_bytes(manifest);
    if size > max_bytes {
        return Err(LoadError::TooLarge {
            size,
            limit: max_bytes,
        });
    }
    if manifest.importer != IMPORTER_VERSION {
        return Err(LoadError::Importer {
            found: manifest.importer,
        });
    }
    Ok(())
}

/// A whole file of a model.
pub(crate) fn read(store: &BlobStore, file: &File) -> Result<Vec<u8>, LoadError> {
    store
        .read(&file.blake3, file.size)
        .map_err(|error| damaged(file, error))
}

fn damaged(file: &File, error: StoreError) -> LoadError {
    LoadError::File {
        path: file.path.clone(),
        error,
    }
}

fn load_language(
    manifest: &Manifest,
    store: &BlobStore,
    max_bytes: u64,
) -> Result<LanguageModel, LoadError> {
    check_bounds(manifest, max_bytes)?;
    let files = ModelFiles::stored(manifest, store)?;
    let language = LanguageModel::load(manifest.format, &files, &lemma_llm::Compute::new(1))?;
    language.derived().check(manifest)?;
    Ok(language)
}

fn load_upstream(
    manifest: &Manifest,
    store: &BlobStore,
    max_bytes: u64,
) -> Result<UpstreamModel, LoadError> {
    check_bounds(manifest, max_bytes)?;
    let [file] = manifest.files.as_slice() else {
        return Err(LoadError::NoUpstream);
    };
    if file.path != UpstreamModel::PATH || file.size > UpstreamModel::MAX_BYTES as u64 {
        return Err(LoadError::NoUpstream);
    }
    let model = UpstreamModel::decode(&read(store, file)?)?;
    upstream(&model).check(manifest)?;
    Ok(model)
}

/// The work of another server is known to nobody.
fn upstream(model: &UpstreamModel) -> Derived {
    Derived::of_text(model.root(), 0)
}

/// Makes the manifest of a model that other servers answer for, by the name that workers ask them for.
///
/// # Errors
/// [`LoadError::Manifest`] if a text is not acceptable.
pub fn upstream_manifest(model: &UpstreamModel, terms: Terms) -> Result<Manifest, LoadError> {
    let content = model.encode();
    let file = File {
        path: UpstreamModel::PATH.to_owned(),
        size: content.len() as u64,
        blake3: Digest::of(&content),
    };
    upstream(model).manifest(Format::Upstream, vec![file], terms)
}

/// Loads a model whose files are in the store, derives everything that the manifest states, and refuses any difference.
/// Takes as long as reading and importing the files.
///
/// # Errors
/// See [`LoadError`].
pub fn load(manifest: &Manifest, store: &BlobStore, max_bytes: u64) -> Result<Model, LoadError> {
    check_bounds(manifest, max_bytes)?;
    let file = manifest
        .files
        .iter()
        .find(|file| file.path.ends_with(".onnx"))
        .ok_or(LoadError::NoModel)?;
    // Every byte is checked once here; slices are read, and the model is mapped, unchecked afterwards.
    for one in &manifest.files {
        store
            .verify(&one.blake3)
            .map_err(|error| damaged(one, error))?;
    }
    let folder = Path::new(&file.path)
        .parent()
        .and_then(Path::to_str)
        .unwrap_or("");
    let files = ManifestFiles {
        manifest,
        store,
        folder,
    };
    let limits = Limits {
        model_bytes: max_bytes.min(file.size),
        constant_bytes: max_bytes.saturating_mul(4),
        ..Limits::default()
    };
    let path = store.path(&file.blake3);
    let model = Model::open(&path, &files, &limits).map_err(|error| match error {
        OpenError::File(error) => damaged(file, error.into()),
        OpenError::Import(error) => error.into(),
    })?;
    Derived::of(&model)?.check(manifest)?;
    Ok(model)
}

/// A signature in one line: `image FP32 [batch, 1, 8, 8]`.
#[must_use]
pub fn signature(specs: &[TensorSpec]) -> String {
    let one = |spec: &TensorSpec| {
        let dims: Vec<String> = spec.shape.iter().map(Dim::to_string).collect();
        format!("{} {} [{}]", spec.name, spec.dtype, dims.join(", "))
    };
    specs.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The files beside a model, by their paths relative to it.
struct ManifestFiles<'a> {
    manifest: &'a Manifest,
    store: &'a BlobStore,
    folder: &'a str,
}

impl ManifestFiles<'_> {
    fn find(&self, path: &str) -> Result<&File, String> {
        let full = match self.folder {
            "" => path.to_owned(),
            folder => format!("{folder}/{path}"),
        };
        let found = self.manifest.files.iter().find(|file| file.path == full);
        found.ok_or_else(|| "the manifest has no such file".to_owned())
    }
}

impl Files for ManifestFiles<'_> {
    fn size(&self, path: &str) -> Result<u64, String> {
        self.find(path).map(|file| file.size)
    }

    fn read(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>, String> {
        let digest = self.find(path)?.blake3;
        let mut reader = self
            .store
            .open_range(&digest, offset, length as u64)
            .map_err(|error| error.to_string())?;
        let mut bytes = Vec::with_capacity(length);
        reader
            .read_to_end(&mut bytes)
            .map_err(|error| error.to_string())?;
        if bytes.len() == length {
            Ok(bytes)
        } else {
            Err("the file is shorter than stated".to_owned())
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use lemma_graph::NoFiles;

    use super::*;

    const DIGITS: &[u8] = include_bytes!("../../../models/digits/model.onnx");
    const IRIS: &[u8] = include_bytes!("../../../models/iris/model.onnx");

    fn publish(store: &BlobStore, onnx: &[u8]) -> Manifest {
        let model = Model::load(onnx, &NoFiles, &Limits::small()).unwrap();
        let file = File {
            path: "model.onnx".to_owned(),
            size: onnx.len() as u64,
            blake3: store.put_bytes(onnx).unwrap(),
        };
        manifest(&model, vec![file], Terms::default()).unwrap()
    }

    /// Puts the sample models and their manifests into a store.
    pub(crate) fn samples(store: &BlobStore) -> [Manifest; 2] {
        let manifests = [DIGITS, IRIS].map(|onnx| publish(store, onnx));
        for manifest in &manifests {
            assert_eq!(
                store.put_bytes(&manifest.encode()).unwrap(),
                manifest.root()
            );
        }
        manifests
    }

    #[test]
    fn a_model_loads_only_as_its_manifest_states_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let [digits, iris] = samples(&store);
        assert_eq!(
            load(&digits, &store, 1 << 20).unwrap().root(),
            digits.graph_root
        );
        assert!(matches!(
            load(&digits, &store, 100),
            Err(LoadError::TooLarge { limit: 100, .. })
        ));

        type Change = fn(&mut Manifest, &Manifest);
        let lies: [(&str, Change); 5] = [
            ("graph_root", |manifest, _| {
                manifest.graph_root = Digest::of(b"other")
            }),
            ("compute_units", |manifest, _| manifest.compute_units += 1),
            ("inputs", |manifest, _| manifest.inputs[0].name.push('x')),
            ("outputs", |manifest, _| manifest.outputs.clear()),
            ("graph_root", |manifest, other| {
                manifest.files.clone_from(&other.files)
            }),
        ];
        for (field, lie) in lies {
            let mut manifest = digits.clone();
            lie(&mut manifest, &iris);
            let error = load(&manifest, &store, 1 << 20).unwrap_err();
            assert!(
                matches!(&error, LoadError::Mismatch { field: found, .. } if *found == field),
                "{error}"
            );
        }
        let importer = Manifest {
            importer: IMPORTER_VERSION + 1,
            ..digits.clone()
        };
        assert!(matches!(
            load(&importer, &store, 1 << 20),
            Err(LoadError::Importer { .. })
        ));
        store.remove(&digits.files[0].blake3).unwrap();
        assert!(matches!(
            load(&digits, &store, 1 << 20),
            Err(LoadError::File { .. })
        ));
    }

    #[test]
    fn files_beside_a_model_are_found_relative_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let [mut manifest, _] = samples(&store);
        let weights = store.put_bytes(b"0123456789").unwrap();
        manifest.files.push(File {
            path: "sub/weights.bin".to_owned(),
            size: 10,
            blake3: weights,
        });
        let files = ManifestFiles {
            manifest: &manifest,
            store: &store,
            folder: "sub",
        };
        assert_eq!(files.size("weights.bin"), Ok(10));
        assert_eq!(files.read("weights.bin", 3, 4), Ok(b"3456".to_vec()));
        assert!(files.read("weights.bin", 8, 4).is_err());
        assert!(
            files.size("model.onnx").is_err(),
            "it is not in that folder"
        );
    }
}
