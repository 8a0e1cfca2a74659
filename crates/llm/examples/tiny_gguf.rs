//! Writes the small random models of the tests as GGUF files, one for each format, for other
//! engines to read: `tests/fixtures/make_gguf.py` makes references from them.
//!
//!     tiny_gguf FOLDER
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool for tests")]

#[path = "../tests/llm/common/mod.rs"]
mod common;

use lemma_kernels::Format;

fn main() {
    let folder = std::path::PathBuf::from(std::env::args().nth(1).expect("a folder"));
    std::fs::create_dir_all(&folder).unwrap();
    for format in common::FORMATS {
        let mut writer = common::tiny_writer(format, 1, 0);
        writer.text("tokenizer.ggml.model", "no_vocab");
        writer.int("llama.vocab_size", common::VOCAB as u32);
        let path = folder.join(format!("{format:?}.gguf").to_lowercase());
        std::fs::write(&path, writer.finish()).unwrap();
        println!("{}", path.display());
    }
    let _: [Format; 8] = common::FORMATS;
}
