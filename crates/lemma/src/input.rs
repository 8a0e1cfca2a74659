//! Tensors from files: `.json` (Open Inference Protocol) and `.npy`, as `FILE` or `NAME=FILE`.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use lemma_graph::io::npy;
use lemma_types::{
    limits::HTTP_BODY_BYTES,
    tensor::{TensorData, TensorSpec},
};

use crate::{
    error::{CommandError, CommandResult, Context as _, did_you_mean},
    exit::ExitCode,
    text::harmless,
};

/// Where a tensor, or several, come from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    name: Option<String>,
    path: PathBuf,
}

impl Source {
    /// `NAME=FILE` if NAME is a tensor of the model and no such file exists; otherwise `FILE`.
    fn parse(text: &str, specs: &[TensorSpec]) -> Self {
        if let Some((name, path)) = text.split_once('=')
            && (!Path::new(text).exists() || specs.iter().any(|spec| spec.name == name))
        {
            return Self {
                name: Some(name.to_owned()),
                path: path.into(),
            };
        }
        Self {
            name: None,
            path: text.into(),
        }
    }

    fn is_npy(&self) -> bool {
        self.path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("npy"))
    }

    fn fail(&self, reason: impl Into<String>) -> CommandError {
        CommandError::failed(format!("can not use {}", self.path.display())).cause(reason)
    }

    fn read(&self) -> CommandResult<Vec<u8>> {
        let cannot = || format!("can not read {}", self.path.display());
        let bytes = read_or_stdin(&self.path, HTTP_BODY_BYTES as u64 + 1, cannot)?;
        if bytes.len() > HTTP_BODY_BYTES {
            return Err(self.fail(format!(
                "it is larger than the {HTTP_BODY_BYTES} bytes that a request may have"
            )));
        }
        Ok(bytes)
    }

    fn tensors(&self, specs: &[TensorSpec]) -> CommandResult<Vec<TensorData>> {
        let bytes = self.read()?;
        if self.is_npy() {
            let name = self.name_for_array(specs)?;
            let tensor = npy::read(&name, &bytes)
                .map_err(|error| self.fail(harmless(&error.to_string())))?;
            return Ok(vec![tensor]);
        }
        let mut tensors = lemma_api::oip::decode_tensors(&bytes).map_err(|error| {
            self.fail(harmless(&error.to_string()))
                .hint("expected a request body of the Open Inference Protocol, or a .npy file")
        })?;
        if let Some(name) = &self.name {
            tensors.retain(|tensor| tensor.name() == name);
            if tensors.is_empty() {
                return Err(self.fail(format!("it has no tensor `{}`", harmless(name))));
            }
        }
        Ok(tensors)
    }

    /// An array has no name: it is given, or the model has one tensor only.
    fn name_for_array(&self, specs: &[TensorSpec]) -> CommandResult<String> {
        match (&self.name, specs) {
            (Some(name), _) => Ok(name.clone()),
            (None, [only]) => Ok(only.name.clone()),
            (None, _) => {
                let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
                Err(CommandError::new(
                    ExitCode::Usage,
                    format!("which tensor is {}?", self.path.display()),
                )
                .cause(harmless(&format!("the model has {}", names.join(", "))))
                .hint(format!("write NAME={}", self.path.display())))
            }
        }
    }
}

/// Reads tensors and puts them into the order of the signature. Types and shapes are for the model to judge.
///
/// # Errors
/// If a file can not be read, a tensor is unknown, given twice or missing.
pub(crate) fn read_all(files: &[String], specs: &[TensorSpec]) -> CommandResult<Vec<TensorData>> {
    let mut found: Vec<TensorData> = Vec::new();
    for file in files {
        for tensor in Source::parse(file, specs).tensors(specs)? {
            if found.iter().any(|other| other.name() == tensor.name()) {
                return Err(CommandError::new(
                    ExitCode::Usage,
                    format!("tensor `{}` is given twice", harmless(tensor.name())),
                ));
            }
            found.push(tensor);
        }
    }
    arrange(found, specs)
}

fn arrange(mut found: Vec<TensorData>, specs: &[TensorSpec]) -> CommandResult<Vec<TensorData>> {
    let names = || specs.iter().map(|spec| spec.name.as_str());
    if let Some(stranger) = found
        .iter()
        .find(|tensor| names().all(|name| name != tensor.name()))
    {
        let error = CommandError::failed(format!(
            "the model has no tensor `{}`",
            harmless(stranger.name())
        ));
        return Err(match did_you_mean(stranger.name(), names()) {
            Some(similar) => error.hint(format!("did you mean `{}`?", harmless(similar))),
            None => error.hint(harmless(&format!(
                "it has {}",
                names().collect::<Vec<_>>().join(", ")
            ))),
        });
    }
    specs
        .iter()
        .map(|spec| {
            let position = found.iter().position(|tensor| tensor.name() == spec.name);
            position
                .map(|position| found.swap_remove(position))
                .ok_or_else(|| {
                    CommandError::failed(format!("tensor `{}` is missing", harmless(&spec.name)))
                        .hint(format!("give it as {}=FILE", harmless(&spec.name)))
                })
        })
        .collect()
}

/// Reads a file, at most so many bytes of it.
pub(crate) fn read_at_most(
    path: &Path,
    most: u64,
    cannot: impl Fn() -> String,
) -> CommandResult<Vec<u8>> {
    let file = fs::File::open(path).context(ExitCode::NotFound, &cannot)?;
    take(file, most, cannot)
}

/// Reads a file, or standard input where the path is `-`, at most so many bytes of it.
pub(crate) fn read_or_stdin(
    path: &Path,
    most: u64,
    cannot: impl Fn() -> String,
) -> CommandResult<Vec<u8>> {
    if path == Path::new("-") {
        return take(std::io::stdin(), most, cannot);
    }
    read_at_most(path, most, cannot)
}

fn take(from: impl Read, most: u64, cannot: impl Fn() -> String) -> CommandResult<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most)
        .read_to_end(&mut bytes)
        .context(ExitCode::Failed, cannot)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use lemma_types::tensor::{DType, Dim};

    use super::*;

    fn spec(name: &str) -> TensorSpec {
        TensorSpec {
            name: name.to_owned(),
            dtype: DType::F32,
            shape: vec![Dim::Fixed(2)],
        }
    }

    fn tensor(name: &str, value: f32) -> TensorData {
        let data = [value, value]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        TensorData::new(name, DType::F32, vec![2], data).unwrap()
    }

    fn npy_file(dir: &Path, name: &str, value: f32) -> String {
        let path = dir.join(name);
        fs::write(&path, npy::write(&tensor("", value)).unwrap()).unwrap();
        path.display().to_string()
    }

    #[test]
    fn arrays_get_their_names_and_order_from_the_signature() {
        let dir = tempfile::tempdir().unwrap();
        let (x, y) = (
            npy_file(dir.path(), "x.npy", 1.0),
            npy_file(dir.path(), "y.npy", 2.0),
        );
        let one = read_all(std::slice::from_ref(&x), &[spec("only")]).unwrap();
        assert_eq!(one, [tensor("only", 1.0)]);
        let two = [spec("a"), spec("b")];
        let named = read_all(&[format!("b={y}"), format!("a={x}")], &two).unwrap();
        assert_eq!(named, [tensor("a", 1.0), tensor("b", 2.0)]);
    }

    #[test]
    fn json_holds_several_tensors_or_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.json");
        fs::write(&path, r#"{"inputs":[{"name":"b","shape":[2],"datatype":"FP32","data":[2,2]},{"name":"a","shape":[2],"datatype":"FP32","data":[1,1]}]}"#).unwrap();
        let two = [spec("a"), spec("b")];
        let file = path.display().to_string();
        assert_eq!(
            read_all(std::slice::from_ref(&file), &two).unwrap(),
            [tensor("a", 1.0), tensor("b", 2.0)]
        );
        assert_eq!(
            read_all(&[format!("a={file}"), format!("b={file}")], &two)
                .unwrap()
                .len(),
            2
        );
    }

    #[test]
    fn mistakes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let x = npy_file(dir.path(), "x.npy", 1.0);
        let two = [spec("alpha"), spec("beta")];
        let fails = |files: &[String]| read_all(files, &two).unwrap_err();
        assert_eq!(fails(std::slice::from_ref(&x)).code(), ExitCode::Usage);
        assert!(
            fails(&[format!("alpha={x}")])
                .message()
                .contains("`beta` is missing")
        );
        assert_eq!(
            fails(&[format!("alhpa={x}")]).hints(),
            ["did you mean `alpha`?"]
        );
        assert!(
            fails(&[format!("alpha={x}"), format!("alpha={x}")])
                .message()
                .contains("twice")
        );
        assert_eq!(fails(&["absent.npy".to_owned()]).code(), ExitCode::NotFound);
        let broken = dir.path().join("broken.npy");
        fs::write(&broken, b"no array").unwrap();
        let error = fails(&[format!("alpha={}", broken.display())]);
        assert!(error.message().contains("broken.npy") && !error.causes().is_empty());
    }
}
