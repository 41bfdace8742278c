//! Fuzzes the reading of DNS responses: `tests/fuzz.sh`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pointsman_core::discovery::laws::check(bytes));
