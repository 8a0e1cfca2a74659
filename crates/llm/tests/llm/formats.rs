//! Each format of GGUF files against llama.cpp. `fixtures/make_gguf.py` made the references.

use std::fs;
use std::path::Path;

use crate::common::{FORMATS, VOCAB, tiny};
use lemma_kernels::{Format, PackedMatrix, Threads};
use lemma_llm::{Cache, Chunk, Compute, Model, Scratch};

/// Logits of every position of the prompt.
fn logits(file: &[u8]) -> Vec<f32> {
    let prompt: Vec<u32> = (0..12).map(|i| (i * i + 3) % 96).collect();
    let model = Model::from_gguf(&Threads::single(), file).unwrap();
    let mut cache = Cache::new(model.config(), 1);
    let pages: Vec<_> = cache.ids().collect();
    let chunk = Chunk {
        tokens: &prompt,
        position: 0,
        pages: &pages,
        logits: 12,
    };
    let mut scratch = Scratch::default();
    model
        .forward(&Compute::new(1), &mut cache, &[chunk], &mut scratch)
        .to_vec()
}

/// The same model with its weights widened to F32, so that activations are not quantised.
fn widened(format: Format) -> Vec<u8> {
    let mut writer = crate::common::tiny_writer(format, 1, 0);
    for (_, shape, kind, data) in &mut writer.tensors {
        let (k, n) = (shape[0] as usize, shape.get(1).map_or(1, |n| *n as usize));
        if *kind == 0 {
            continue;
        }
        let matrix = PackedMatrix::pack(&Threads::single(), format, n, k, data).unwrap();
        let mut row = vec![0.0; k];
        let mut wide = Vec::new();
        for i in 0..n {
            matrix.row(i, &mut row);
            row.iter().for_each(|v| wide.extend(v.to_le_bytes()));
        }
        (*kind, *data) = (0, wide);
    }
    writer.finish()
}

/// Root mean square of the differences, relative to that of the second list.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let square = |x: f32, y: f32| x + y * y;
    let differences = a.iter().zip(b).map(|(a, b)| a - b);
    (differences.fold(0.0, square) / b.iter().copied().fold(0.0, square)).sqrt()
}

/// With the weights taken for what they are, our logits have to be where llama.cpp's are, and as
/// near as those to the logits without quantised activations.
#[test]
fn logits_are_as_good_as_those_of_llama_cpp() {
    for format in FORMATS {
        let name = format!("{format:?}").to_lowercase();
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/gguf")
            .join(format!("{name}.bin"));
        let theirs: Vec<f32> = fs::read(path)
            .unwrap()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        assert_eq!(theirs.len(), 12 * VOCAB);
        let ours = logits(&tiny(format, 1));
        let exact = logits(&widened(format));
        let errors = [distance(&ours, &exact), distance(&theirs, &exact)];
        // Eight bits of activations leave two percent on these models, which have no slack.
        assert!(errors[1] < 0.06, "{name}: llama.cpp is {} away", errors[1]);
        assert!(
            errors[0] < 1e-3f32.max(1.25 * errors[1]),
            "{name}: {errors:?}"
        );
    }
}
