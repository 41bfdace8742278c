//! Fuzzes the framing of the requests on a connection to the admin server: `tests/fuzz.sh`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pointsman::laws::framings(bytes));
