#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lemma_fuzz::api::json_rpc(data);
});
