//! Logits depend on the model and the tokens alone: not on instruction set, threads, chunking, or
//! what else is in the batch.

use crate::common::{FORMATS, VOCAB, tiny, tiny_experts, tokens};
use lemma_kernels::{Format, Isa, Threads};
use lemma_llm::gguf::Gguf;
use lemma_llm::{Cache, Chunk, Compute, FileMap, Model, Scratch};

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

/// Logits of every position, prefilled in chunks.
fn logits(model: &Model, c: &Compute, tokens: &[u32], chunk: usize) -> Vec<u32> {
    let mut cache = Cache::new(model.config(), 32);
    let pages: Vec<_> = cache.ids().collect();
    let mut scratch = Scratch::default();
    let mut out = Vec::new();
    for (i, tokens) in tokens.chunks(chunk).enumerate() {
        let chunk = Chunk {
            tokens,
            position: i * chunk,
            pages: &pages,
            logits: tokens.len(),
        };
        out.extend(bits(model.forward(c, &mut cache, &[chunk], &mut scratch)));
    }
    out
}

fn everywhere(file: &[u8], what: &str) {
    let model = Model::from_gguf(&Threads::single(), file).unwrap();
    let tokens = tokens(37, 3);
    let expected = logits(
        &model,
        &Compute {
            isa: Isa::PORTABLE,
            threads: Threads::single(),
        },
        &tokens,
        37,
    );
    assert_eq!(expected.len(), 37 * VOCAB);
    let values: Vec<f32> = expected.iter().map(|b| f32::from_bits(*b)).collect();
    assert!(values.iter().all(|v| v.is_finite()), "{what}");
    let spread = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    assert!(spread > 0.5, "{what}: logits are all but zero ({spread})");
    for isa in Isa::available() {
        for (threads, chunk) in [(1, 37), (2, 37), (2, 1), (1, 16), (2, 7)] {
            let c = Compute {
                isa,
                threads: Threads::new(threads),
            };
            let found = logits(&model, &c, &tokens, chunk);
            assert!(
                found == expected,
                "{what}, {isa}, {threads} threads, chunks of {chunk}"
            );
        }
    }
}

#[test]
fn every_format_gives_the_same_bits_everywhere() {
    for format in FORMATS {
        everywhere(&tiny(format, 1), &format!("{format:?}"));
    }
}

#[test]
fn experts_give_the_same_bits_everywhere() {
    everywhere(&tiny_experts(Format::Q8_0, 5, 4), "four experts");
}

#[test]
fn a_sequence_is_the_same_in_any_company() {
    let model = Model::from_gguf(&Threads::single(), &tiny(Format::Q8_0, 1)).unwrap();
    let c = Compute::new(2);
    let (a, b, d) = (tokens(21, 1), tokens(34, 2), tokens(5, 9));
    let alone = |tokens: &[u32]| logits(&model, &c, tokens, tokens.len());
    let mut cache = Cache::new(model.config(), 32);
    let pages: Vec<_> = cache.ids().collect();
    let mut scratch = Scratch::default();
    // First all of a and part of b; then the rest of b beside d.
    let chunks = [
        Chunk {
            tokens: &b[..20],
            position: 0,
            pages: &pages[10..13],
            logits: 20,
        },
        Chunk {
            tokens: &a,
            position: 0,
            pages: &pages[4..6],
            logits: 1,
        },
    ];
    let first = bits(model.forward(&c, &mut cache, &chunks, &mut scratch));
    let chunks = [
        Chunk {
            tokens: &d,
            position: 0,
            pages: &pages[20..21],
            logits: 5,
        },
        Chunk {
            tokens: &b[20..],
            position: 20,
            pages: &pages[10..13],
            logits: 14,
        },
    ];
    let second = bits(model.forward(&c, &mut cache, &chunks, &mut scratch));
    let (a, b, d) = (alone(&a), alone(&b), alone(&d));
    assert_eq!(first[..20 * VOCAB], b[..20 * VOCAB]);
    assert_eq!(first[20 * VOCAB..], a[20 * VOCAB..]);
    assert_eq!(second[..5 * VOCAB], d);
    assert_eq!(second[5 * VOCAB..], b[20 * VOCAB..]);
}

#[test]
fn a_mapped_file_is_the_same_model() {
    let bytes = tiny(Format::Q4K, 1);
    let path = std::env::temp_dir().join(format!("lemma-mapped-{}.gguf", std::process::id()));
    std::fs::write(&path, &bytes).unwrap();
    let map = FileMap::open(&path).unwrap();
    let mapped = Model::from_parsed(&Threads::new(2), &Gguf::map(&map).unwrap()).unwrap();
    let read = Model::from_gguf(&Threads::single(), &bytes).unwrap();
    assert_eq!(mapped.root(), read.root());
    // Parts were handed back while the model was loaded; the file still reads as it was.
    assert_eq!(*map, *bytes);
    drop(map);
    std::fs::remove_file(&path).unwrap();
    let (c, tokens) = (Compute::new(1), tokens(9, 1));
    assert_eq!(
        logits(&mapped, &c, &tokens, 9),
        logits(&read, &c, &tokens, 9)
    );
}

#[test]
fn weights_matter() {
    let c = Compute::new(1);
    let of = |format, seed| {
        let model = Model::from_gguf(&Threads::single(), &tiny(format, seed)).unwrap();
        logits(&model, &c, &tokens(9, 1), 9)
    };
    assert_ne!(of(Format::Q8_0, 1), of(Format::Q8_0, 2));
    assert_ne!(of(Format::Q8_0, 1), of(Format::Q4_0, 1));
}
