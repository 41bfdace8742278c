//! Fuzzes the parsers of what clients send first: `tests/fuzz.sh`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pointsman_core::protocol::laws::check(bytes));
