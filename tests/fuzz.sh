#!/usr/bin/env bash
# Fuzzes the parsers of PROXY headers, ClientHellos and PostgreSQL's first messages with libFuzzer, beginning with the recorded
# ClientHellos. Needs a C++ compiler; the stable toolchain will do.
#
#   tests/fuzz.sh [SECONDS]        60 by default; inputs that it finds are kept in target/fuzz/corpus
#
# At a fault it prints the broken law and the input, which belongs into a test.
set -euo pipefail
cd "$(dirname "$0")/.."

corpus=target/fuzz/corpus
mkdir -p "$corpus"
cp src/protocol/client_hello_samples/*.bin "$corpus"
printf 'PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n' >"$corpus/v1"
printf '\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xc0\0\2\1\xc0\0\2\2\0\1\0\2\4\0\0' >"$corpus/v2"

# The coverage that libFuzzer learns from (the flags of cargo-fuzz, without a sanitizer). Build scripts and macros go
# without, as a target is named.
RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares"
export RUSTFLAGS CARGO_TARGET_DIR=$PWD/target/fuzz
cp Cargo.lock tests/fuzz/Cargo.lock # the same versions as the program's
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --target "$host" --manifest-path tests/fuzz/Cargo.toml
"target/fuzz/$host/release/pointsman-fuzz" -max_total_time="${1:-60}" -max_len=20000 -print_final_stats=1 "$corpus"
