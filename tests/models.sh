#!/usr/bin/env bash
# Explores the interleavings of the code that several threads share (tests/models) with a seeded scheduler: the loads, the
# queue, the close directives. Half a minute, most of it the build.
#
#   tests/models.sh [ROUNDS]    orders for each model and each of two schedulers; 20,000 by default
set -euo pipefail
cd "$(dirname "$0")/.."
cp Cargo.lock tests/models/Cargo.lock # the same versions as the program's
[ $# = 0 ] || export ROUNDS=$1
CARGO_TARGET_DIR=$PWD/target/models cargo test --quiet --manifest-path tests/models/Cargo.toml
