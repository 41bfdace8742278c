#!/usr/bin/env bash
# Fuzzes what reads bytes from outside with libFuzzer: each target of tests/fuzz/src/bin asserts laws (src/**/*laws.rs)
# that hold for any bytes, and begins with the inputs in tests/fuzz/corpus. Needs a C++ compiler; the stable toolchain
# will do.
#
#   tests/fuzz.sh [SECONDS [TARGET...]]    60 seconds for each target by default
#
# Inputs that it finds are kept in target/fuzz/corpus. At a fault it prints the broken law and the file of the input,
# which belongs into tests/fuzz/corpus: `cargo test` asserts the laws for all inputs there.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=($(cd tests/fuzz/src/bin && basename -s .rs ./*.rs))

# The coverage that libFuzzer learns from (the flags of cargo-fuzz, without a sanitizer). Build scripts and macros go
# without, as a target is named.
RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares"
export RUSTFLAGS CARGO_TARGET_DIR=$root/target/fuzz
cp Cargo.lock tests/fuzz/Cargo.lock # the same versions as the program's
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --target "$host" --manifest-path tests/fuzz/Cargo.toml

for target in "${targets[@]}"; do
  corpus=target/fuzz/corpus/$target seeds=(tests/fuzz/corpus/"$target")
  [ "$target" != protocols ] || seeds+=(src/protocol/client_hello_samples)
  [ "$target" != configuration ] || seeds+=(conf)
  mkdir -p "$corpus" target/fuzz/faults
  echo "== $target"
  # Without a line for each new input.
  "target/fuzz/$host/release/$target" -max_total_time="$seconds" -max_len=20000 -timeout=30 -verbosity=0 \
    -print_final_stats=1 -artifact_prefix="target/fuzz/faults/$target-" "$corpus" "${seeds[@]}"
done
