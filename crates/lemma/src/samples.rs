//! The sample models that a new local network publishes, inside the binary.

use lemma_api::oip::decode_tensors;
use lemma_graph::{Limits, Model, NoFiles, RunOptions};
use lemma_kernels::Isa;
use lemma_node::network::SampleModel;
use lemma_types::{ModelName, manifest::Format};
use serde::Deserialize;

use crate::error::{CommandResult, Context as _};
use crate::exit::ExitCode;

/// The name of the model of the tour.
pub(crate) const DIGITS: &str = "lemma/digits";
/// Its example input, as a request body.
pub(crate) const DIGITS_EXAMPLE: &[u8] = include_bytes!("../../../models/digits/example.json");
/// The language model that comes along.
pub(crate) const NANO: &str = "lemma/nano";
/// The model of the tour itself.
const DIGITS_MODEL: &[u8] = include_bytes!("../../../models/digits/model.onnx");

/// What a model's file can not say of itself.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Terms {
    description: &'static str,
    licence: &'static str,
    output_licence: &'static str,
}

/// All samples.
///
/// # Errors
/// Never: what is embedded is tested.
pub(crate) fn all() -> CommandResult<Vec<SampleModel>> {
    Ok(vec![
        sample(
            DIGITS,
            Format::Onnx,
            DIGITS_MODEL,
            include_str!("../../../models/digits/lemma.json"),
            vec![
                ("example.json", DIGITS_EXAMPLE),
                (
                    "example.npy",
                    include_bytes!("../../../models/digits/example.npy"),
                ),
            ],
        )?,
        sample(
            "lemma/digits-int8",
            Format::Integer,
            include_bytes!("../../../models/digits-int8/model.integer"),
            include_str!("../../../models/digits-int8/lemma.json"),
            vec![
                ("example.json", DIGITS_EXAMPLE),
                (
                    "example.npy",
                    include_bytes!("../../../models/digits/example.npy"),
                ),
            ],
        )?,
        sample(
            "lemma/iris",
            Format::Onnx,
            include_bytes!("../../../models/iris/model.onnx"),
            include_str!("../../../models/iris/lemma.json"),
            vec![
                (
                    "example.json",
                    include_bytes!("../../../models/iris/example.json"),
                ),
                (
                    "example.npy",
                    include_bytes!("../../../models/iris/example.npy"),
                ),
            ],
        )?,
        sample(
            NANO,
            Format::Gguf,
            include_bytes!("../../../models/nano/model.gguf"),
            include_str!("../../../models/nano/lemma.json"),
            Vec::new(),
        )?,
    ])
}

fn sample(
    name: &str,
    format: Format,
    content: &'static [u8],
    terms: &'static str,
    examples: Vec<(&'static str, &'static [u8])>,
) -> CommandResult<SampleModel> {
    let broken = || format!("the sample model {name} is broken");
    let Terms {
        description,
        licence,
        output_licence,
    } = serde_json::from_str(terms).context(ExitCode::Internal, broken)?;
    let name: ModelName = name.parse().context(ExitCode::Internal, broken)?;
    Ok(SampleModel {
        name,
        format,
        content,
        description,
        licence,
        output_licence,
        examples,
    })
}

/// Runs the digits model with every instruction set of this machine and compares the bits.
///
/// Returns how many there are, or what differs.
pub(crate) fn same_bits() -> Result<usize, String> {
    let model = Model::load(DIGITS_MODEL, &NoFiles, &Limits::default())
        .map_err(|error| error.to_string())?;
    let inputs = decode_tensors(DIGITS_EXAMPLE).map_err(|error| error.to_string())?;
    let run = |isa| {
        let options = RunOptions {
            isa,
            ..RunOptions::default()
        };
        model
            .infer(&inputs, &options)
            .map_err(|error| error.to_string())
    };
    let expected = run(Isa::PORTABLE)?;
    let sets = Isa::available();
    for isa in &sets {
        if run(*isa)? != expected {
            return Err(format!(
                "{} kernels give other bits than the portable ones",
                isa.name()
            ));
        }
    }
    Ok(sets.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        assert_eq!(same_bits(), Ok(Isa::available().len()));
    }

    #[test]
    fn the_samples_are_whole() {
        let samples = all().unwrap();
        let names: Vec<_> = samples.iter().map(|sample| sample.name.as_str()).collect();
        let expected = [
            "lemma/digits",
            "lemma/digits-int8",
            "lemma/iris",
            "lemma/nano",
        ];
        assert_eq!(names, expected);
        for sample in &samples {
            assert!(!sample.content.is_empty());
            // What is asked of a language model needs no file.
            assert_eq!(sample.examples.is_empty(), sample.format.is_text());
        }
    }
}
