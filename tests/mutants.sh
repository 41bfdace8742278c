#!/usr/bin/env bash
# Runs cargo-mutants on one folder of src/ and lists the mutants that no test detects. Needs cargo-mutants (`cargo
# install cargo-mutants --locked`) and no Docker.
#
#   tests/mutants.sh FOLDER [SHARD/SHARDS]       tests/mutants.sh proxy 3/20
#
# Shard k of n is every n-th mutant from the k-th on (from 0): a sample of all files. For each mutant the unit tests of
# the folder run first; if they pass, the program is built and the folder's integration tests run against it. The tests
# are built once, before the first mutant. All work happens in a copy below target/mutants (or $MUTANTS_DIR), which
# keeps its build for the next run. MUTANTS_BASELINE=skip skips the first run without a mutant.
set -euo pipefail

# The modules of integration tests of a folder, the fastest to detect a fault first.
tests_of() {
  case $1 in
    proxy) echo wiring order bytes endings relay limits time_limits failover failure_penalty options unix_sockets why ;;
    supervisor) echo drain start time_limits reload options files own_addresses unix_sockets replicas ;;
    discovery) echo discovery srv file engine files replicas adoption ;;
    health) echo health database_checks tls_checks standby failover ;;
    admin) echo admin admin_limits api operator_backends events metrics operator why openapi monitoring ;;
    *) echo "no tests are listed for src/$1" >&2 && exit 2 ;;
  esac
}

# Runs one test program and ends it at the first failure: the mutant is detected, and other tests need not wait until
# their time limits.
until_first_failure() {
  local program line
  exec 3< <(exec "$@" 2>&1)
  program=$!
  while IFS= read -r line <&3; do
    printf '%s\n' "$line"
    if [[ $line == 'test '*' ... FAILED' ]]; then
      # Suspended first, so that it starts no more children.
      kill -STOP "$program" 2>/dev/null || true
      # shellcheck disable=SC2046 # several process ids
      kill -KILL $(pgrep -P "$program") "$program" 2>/dev/null || true
      exit 101
    fi
  done
  wait "$program"
}

# cargo runs this in place of the unit tests' program, or of the integration tests where there are no unit tests.
run_tests() {
  # The unit tests of the other crate do not concern the folder.
  [ -z "$MUTANTS_UNITS" ] || [[ $(basename "$1") == "$MUTANTS_CRATE"-* ]] || exit 0
  if [ -n "$MUTANTS_UNITS" ]; then
    until_first_failure "$1" "$MUTANTS_UNITS"
    # Only now, as unit tests detect many mutants without it. With the tests, as dependencies differ from a build of the
    # program alone.
    cargo test --quiet --locked --no-run --test integration
  fi
  for test in $MUTANTS_TESTS; do until_first_failure "$MUTANTS_INTEGRATION" "$test::"; done
}

main() {
  folder=${1:?folder of src/, such as proxy}
  shard=${2-0/1}
  cd "$(dirname "$0")/.."
  work=$(realpath -m "${MUTANTS_DIR:-target/mutants}")
  tree=$work/tree script=$work/mutants.sh
  mkdir -p "$work"
  # A copy, so that this file may change while it runs.
  cp tests/mutants.sh "$script"

  rm -rf "$tree"
  mkdir -p "$tree"
  git ls-files -coz --exclude-standard | while IFS= read -rd '' file; do
    [ ! -e "$file" ] || cp -p --parents "$file" "$tree"
  done
  # Newer than what was built with the last fault of the run before.
  find "$tree/src" -name '*.rs' -exec touch {} +
  cd "$tree"

  export CARGO_TARGET_DIR=$work/target CARGO_TERM_COLOR=never PROPTEST_DISABLE_FAILURE_PERSISTENCE=1 RUST_BACKTRACE=0
  export MUTANTS_TESTS MUTANTS_UNITS= MUTANTS_INTEGRATION=$work/integration
  MUTANTS_TESTS=$(tests_of "$folder")
  MUTANTS_CRATE=pointsman
  if grep -q "^pub mod $folder;" src/core.rs; then MUTANTS_CRATE=pointsman_core; fi
  export MUTANTS_CRATE
  first=--test=integration
  if grep -rqE '#\[(tokio::)?test|proptest!' "src/$folder"; then MUTANTS_UNITS=$folder:: first=--lib; fi

  echo "building the tests"
  built=$(cargo test --locked --no-run --lib --test integration --message-format=json 2>"$work/build.log") ||
    { cat "$work/build.log" >&2 && exit 1; }
  executable() { sed -nE '/"kind":\["'"$1"'"\]/s/.*"executable":"([^"]+\/'"$2"'-[^"]+)".*/\1/p' <<<"$built"; }
  units=$(executable lib "$MUTANTS_CRATE")
  cp "$(executable test integration)" "$MUTANTS_INTEGRATION"
  if [ "${MUTANTS_BASELINE-}" != skip ]; then
    echo "running them without a fault"
    "$script" --run "$units" >"$work/baseline.log" 2>&1 || { cat "$work/baseline.log" >&2 && exit 1; }
  fi

  triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
  export "CARGO_TARGET_${triple}_RUNNER=$script --run"
  output=$work/$folder-${shard/\//-of-}
  rm -rf "$output"
  began=$SECONDS
  # A fault that is not noticed takes one build of the program and one run of all tests; one that hangs, this long.
  status=0
  cargo mutants --in-place --dir "$tree" --file "src/$folder/**" --shard "$shard" --sharding round-robin \
    --baseline skip --timeout "${MUTANTS_TIMEOUT:-300}" --build-timeout 600 --output "$output" --colors never \
    --test-workspace=true --cargo-arg=--locked --cargo-arg="$first" || status=$?
  # 2: some were missed, 3: some ran into the time limit. Both are reported below.
  case $status in 0 | 2 | 3) ;; *) exit "$status" ;; esac

  count() { wc -l <"$output/mutants.out/$1.txt"; }
  caught=$(count caught) timed_out=$(count timeout) missed=$(count missed) unviable=$(count unviable)
  tried=$((caught + timed_out + missed + unviable))
  printf '%-10s shard %-7s tried %4d  caught %4d  timed out %3d  missed %3d  unviable %3d  (%d s each)\n' "$folder" "$shard" \
    "$tried" "$caught" "$timed_out" "$missed" "$unviable" $(((SECONDS - began) / (tried > 0 ? tried : 1))) | tee -a "$work/summary"
  cat "$output/mutants.out/missed.txt"
}

# Whole in memory before anything runs, as it takes long and may be edited meanwhile.
if [ "${1-}" = --run ]; then run_tests "$2"; else main "$@"; fi
exit
