//! Any octets to a ZMTP connection: `cargo +nightly fuzz run --fuzz-dir tests/fuzz zmtp_bytes`.
#![no_main]

#[path = "../../common/zmtp_fuzz.rs"]
#[allow(dead_code, unreachable_pub, reason = "each target uses a part of it")]
mod zmtp_fuzz;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| zmtp_fuzz::bytes(data));
