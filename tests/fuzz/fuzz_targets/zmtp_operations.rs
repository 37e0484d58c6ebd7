//! Any operations on two connected ZMTP machines: `cargo +nightly fuzz run --fuzz-dir tests/fuzz zmtp_operations`.
#![no_main]

#[path = "../../common/zmtp_fuzz.rs"]
#[allow(dead_code, unreachable_pub, reason = "each target uses a part of it")]
mod zmtp_fuzz;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| zmtp_fuzz::operations(data));
