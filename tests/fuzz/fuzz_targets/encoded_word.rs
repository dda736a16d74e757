#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| targets::encoded_word::run(octets));
