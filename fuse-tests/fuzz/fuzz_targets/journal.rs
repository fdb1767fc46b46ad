#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sailvol_fuzz::journal(data));
