//! Model manifests: what a model is, addressed by the BLAKE3 of its canonical JSON.

use serde::{Deserialize, Serialize};

use crate::{
    Address, CanonicalJsonError, Digest, Mode, from_canonical_json, limits,
    tensor::{Dim, TensorSpec},
    to_canonical_json,
};

/// A model: its files, the canonical graph that they mean, its signature and its terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`Manifest::SCHEMA`].
    pub schema: String,
    /// Format of the files.
    pub format: Format,
    /// Files, sorted by path. See [`Format`] for what has to be among them.
    pub files: Vec<File>,
    /// Root of the canonical graph; of a language model, the digest over its configuration and tensors. Whoever loads the
    /// model derives it again and refuses a mismatch.
    pub graph_root: Digest,
    /// Version of the import rules that derived the graph.
    pub importer: u32,
    /// Inputs, in the model's order. A language model has none: it takes and gives text.
    pub inputs: Vec<TensorSpec>,
    /// Outputs, in the model's order.
    pub outputs: Vec<TensorSpec>,
    /// Work of one inference with every symbolic dimension 1, or of one token of a language model, in units of 10^6
    /// operations, rounded up.
    pub compute_units: u64,
    /// SPDX expression of the model's licence; empty if its author gives none.
    pub licence: String,
    /// SPDX expression under which outputs may be used; empty if the author gives none.
    pub output_licence: String,
    /// One paragraph for people.
    pub description: String,
    /// Who receives royalties, and how much of each price.
    pub royalty: Option<Royalty>,
    /// The model that this one was made from.
    pub parent: Option<Digest>,
}

/// Format of a model's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// ONNX protobuf: the first file whose path ends in `.onnx` is the model.
    Onnx,
    /// A quantised model, which can be proved: the first file whose path ends in `.integer` is its integer graph. The
    /// graph root is the root that proofs name: a commitment to the graph and its constants.
    Integer,
    /// A language model in one GGUF file, the first whose path ends in `.gguf`; it holds tokenizer and chat template too.
    Gguf,
    /// A language model in a folder: `config.json`, all files whose paths end in `.safetensors`, `tokenizer.json`, and, if
    /// there, `tokenizer_config.json` and `chat_template.jinja`.
    Safetensors,
    /// An embedding model in one GGUF file, the first whose path ends in `.gguf`; or else in a folder: `config.json`, all
    /// files whose paths end in `.safetensors`, `tokenizer.json`, and, if there, `1_Pooling/config.json`. The graph root is
    /// a digest over all of it.
    Embedding,
    /// A language model that another server answers for, by the name in the one file, an
    /// [`UpstreamModel`](crate::upstream::UpstreamModel). Which model that is, nobody can check: receipts are `relayed`. The
    /// graph root is the digest of the file.
    Upstream,
}

impl Format {
    /// Whether models of this format take and give text.
    #[must_use]
    pub const fn is_text(self) -> bool {
        match self {
            Self::Onnx | Self::Integer | Self::Embedding => false,
            Self::Gguf | Self::Safetensors | Self::Upstream => true,
        }
    }

    /// Whether other servers answer for models of this format.
    #[must_use]
    pub const fn is_relayed(self) -> bool {
        matches!(self, Self::Upstream)
    }

    /// What backs answers of models of this format unless something else is asked for.
    #[must_use]
    pub const fn mode(self) -> Mode {
        match self {
            Self::Onnx | Self::Integer | Self::Gguf | Self::Safetensors | Self::Embedding => {
                Mode::Signed
            }
            Self::Upstream => Mode::Relayed,
        }
    }
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Relative path with `/` between parts; no part is empty, `.` or `..`.
    pub path: String,
    /// Size, bytes.
    pub size: u64,
    /// BLAKE3 of the content.
    pub blake3: Digest,
}

/// The author's share of each price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Royalty {
    /// Who receives it.
    pub payee: Address,
    /// Hundredths of a percent, at most 10,000.
    pub basis_points: u16,
}

/// Why bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not canonical JSON of a manifest.
    #[error("the manifest is {0}")]
    Json(#[from] CanonicalJsonError),
    /// A field has a value that it cannot have.
    #[error("manifest field `{field}`: {reason}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl Manifest {
    /// The format's name and version.
    pub const SCHEMA: &'static str = "lemma.model/1";

    /// Parses and checks canonical JSON.
    ///
    /// # Errors
    /// If the bytes are not canonical JSON, or a field has a value that it cannot have.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = from_canonical_json(bytes, limits::MANIFEST_BYTES)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Canonical JSON (RFC 8785).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        to_canonical_json(self)
    }

    /// The model's id: BLAKE3 of the canonical JSON.
    #[must_use]
    pub fn root(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`ManifestError::Field`] names the first field that is wrong.
    pub fn check(&self) -> Result<(), ManifestError> {
        let fail = |field, reason: String| Err(ManifestError::Field { field, reason });
        if self.schema != Self::SCHEMA {
            return fail(
                "schema",
                format!("`{}`, expected `{}`", self.schema, Self::SCHEMA),
            );
        }
        if self.files.is_empty() || self.files.len() > limits::MANIFEST_FILES {
            return fail(
                "files",
                format!(
                    "{} files, expected 1 to {}",
                    self.files.len(),
                    limits::MANIFEST_FILES
                ),
            );
        }
        if !self.files.is_sorted_by(|a, b| a.path < b.path) {
            return fail(
                "files",
                "not sorted by path, or a path occurs twice".to_owned(),
            );
        }
        if let Some(file) = self.files.iter().find(|file| !path_is_safe(&file.path)) {
            return fail(
                "files",
                format!("path `{}` is not relative and plain", file.path),
            );
        }
        for (field, specs) in [("inputs", &self.inputs), ("outputs", &self.outputs)] {
            if let Some(reason) = signature_problem(specs) {
                return fail(field, reason);
            }
        }
        for (field, specs) in [("inputs", &self.inputs), ("outputs", &self.outputs)] {
            if self.format.is_text() && !specs.is_empty() {
                return fail(
                    field,
                    "a language model has no tensors of its own".to_owned(),
                );
            }
        }
        // JSON numbers are exact up to 2^53 only (RFC 8785 §3.2.2.3).
        let exact = |n: u64| n < 1 << 53;
        let sizes_are_exact = self.files.iter().all(|file| exact(file.size));
        if !exact(self.compute_units) || !sizes_are_exact {
            return fail("compute_units", "a number is 2^53 or more".to_owned());
        }
        if self
            .royalty
            .is_some_and(|royalty| royalty.basis_points > 10_000)
        {
            return fail("royalty", "more than 10000 basis points".to_owned());
        }
        for (field, text) in [
            ("licence", &self.licence),
            ("output_licence", &self.output_licence),
            ("description", &self.description),
        ] {
            if text.len() > limits::TEXT_BYTES {
                return fail(
                    field,
                    format!("{} bytes, at most {}", text.len(), limits::TEXT_BYTES),
                );
            }
        }
        Ok(())
    }
}

fn path_is_safe(path: &str) -> bool {
    path.len() <= 512
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !path
            .chars()
            .any(|c| c.is_control() || matches!(c, '\\' | ':'))
}

fn signature_problem(specs: &[TensorSpec]) -> Option<String> {
    if specs.len() > limits::TENSORS {
        return Some(format!(
            "{} tensors, at most {}",
            specs.len(),
            limits::TENSORS
        ));
    }
    for (index, spec) in specs.iter().enumerate() {
        if spec.name.is_empty() || spec.name.len() > limits::TENSOR_NAME_BYTES {
            return Some(format!("a name of {} bytes", spec.name.len()));
        }
        if specs[..index].iter().any(|other| other.name == spec.name) {
            return Some(format!("`{}` occurs twice", spec.name));
        }
        let dim_is_valid = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size < 1 << 53,
            Dim::Symbol(name) => !name.is_empty() && name.len() <= limits::TENSOR_NAME_BYTES,
        };
        if spec.shape.len() > limits::RANK || !spec.shape.iter().all(dim_is_valid) {
            return Some(format!("the shape of `{}`", spec.name));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        for good in ["model.onnx", "a/b.bin", "weights-00001.bin"] {
            assert!(path_is_safe(good), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "./a",
            "C:x",
            "a\\b",
            "a\nb",
        ] {
            assert!(!path_is_safe(bad), "{bad}");
        }
    }
}
