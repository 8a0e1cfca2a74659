#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lemma_fuzz::llm::tokenizer_json(data);
});
