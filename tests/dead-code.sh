#!/usr/bin/env bash
# Finds what no module uses. In the crate pointsman-core, everything that the crate pointsman may use is public, so that
# the compiler does not report it as dead there. This checks a copy in which the modules of both are one crate.
set -euo pipefail
cd "$(dirname "$0")/.."
copy=target/one-crate
rm -rf "$copy"
mkdir -p "$copy"
cp -r src Cargo.lock "$copy"
rm "$copy/src/Cargo.toml"

# The dependencies of both; neither tests nor benchmarks.
section() { sed -n "/^\[$1\]/,/^\[/p" "$2" | grep -E '^[a-z_0-9-]+[.a-z]* =' || true; }
{
  sed -n '/^\[package\]/,/^$/p' Cargo.toml | grep -v autotests
  printf '[features]\nlaws = []\ntesting = []\n\n[dependencies]\n'
  { section dependencies Cargo.toml; section dependencies src/Cargo.toml; } | grep -vE 'pointsman-core|optional' | sort -u
  echo
  sed -n '/^\[workspace\]/,$p' Cargo.toml | grep -v '^members\|^default-members'
} >"$copy/Cargo.toml"

modules=$(sed -n 's/^pub \(mod [a-z_0-9]*;\)$/\1/p' src/core.rs | grep -v 'mod testing;')
# shellcheck disable=SC2001 # several lines
sed -i "s/^use pointsman_core::\*;$/$(sed 's/$/\\/' <<<"$modules")
/" "$copy/src/lib.rs"

# What the integration tests and the micro-benchmarks use is in use.
find tests/integration tests/docker tests/support benchmarks/micro -name '*.rs' -print0 |
  xargs -0 perl -0ne 'while (/^use pointsman_core::([^;]+);/mg) { $n++; print "/// Used.\npub mod used_$n { pub use crate::$1; }\n" }' \
    >>"$copy/src/lib.rs"

# What was built for the same dependencies before is used again.
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target} cargo rustc --lib --profile check --manifest-path "$copy/Cargo.toml" -- \
  -D dead_code -D unused_imports -A unreachable_pub -A missing_docs
