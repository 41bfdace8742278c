//! Fuzzes the reading of configurations and of files of backends: `tests/fuzz.sh`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pointsman_core::config::laws::check(bytes));
