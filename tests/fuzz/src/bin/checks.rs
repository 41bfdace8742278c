//! Fuzzes the reading of servers' responses to health checks: `tests/fuzz.sh`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pointsman_core::health::laws::check(bytes));
