//! Any bytes to every decoder: `cargo +nightly fuzz run --fuzz-dir tests/fuzz decoders`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| zincmq::fuzz_decoders(&bytes::Bytes::copy_from_slice(data)));
