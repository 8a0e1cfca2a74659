#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lemma_fuzz::node::upstream_stream(data);
});
