#!/usr/bin/env bash
# Runs all tests ROUNDS times in a row, the first BUSY rounds beside a busy loop for each core, and prints a line for each
# round. To save time, the Docker tests run beside the others, and the build is optimized, in a folder of its own. Output
# goes to target/repeat/. Ends with 1 if a round failed. With POINTSMAN_REQUIRE_DOCKER=1 and POINTSMAN_REQUIRE_TOOLS=1 no
# test is skipped.
#
#   tests/repeat.sh ROUNDS [BUSY]
set -uo pipefail
cd "$(dirname "$0")/.."
rounds=${1:?usage: tests/repeat.sh ROUNDS [BUSY]} busy=${2:-0}
out=target/repeat
mkdir -p "$out"
export CARGO_TERM_COLOR=never CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/optimized}
run=(cargo --config 'profile.dev.package."*".opt-level = 1' --config profile.dev.package.pointsman-core.opt-level=1
  test --locked)
loops=()
trap 'kill "${loops[@]}" 2>/dev/null; wait' EXIT
"${run[@]}" --no-run 2>&1 | tail -n 1 || exit
failed=0

for round in $(seq "$rounds"); do
  start=$SECONDS loops=()
  if [ "$round" -le "$busy" ]; then
    for _ in $(seq "$(nproc)"); do
      while :; do :; done &
      loops+=($!)
    done
  fi
  "${run[@]}" --no-fail-fast --test docker >"$out/$round.docker" 2>&1 &
  docker=$!
  result=passed
  "${run[@]}" --no-fail-fast --lib --bins --test integration >"$out/$round.others" 2>&1 || result=FAILED
  "${run[@]}" --doc >"$out/$round.doc" 2>&1 || result=FAILED
  wait "$docker" || result=FAILED
  [ ${#loops[@]} = 0 ] || { kill "${loops[@]}" && wait "${loops[@]}"; } 2>/dev/null
  counts=$(cat "$out/$round".* | awk '/^test result:/ { passed += $4; failed += $6 } END { print passed " passed, " failed " failed" }')
  skipped=$(cat "$out/$round".* | grep -ac '^skipped: ')
  beside=$([ "$round" -gt "$busy" ] || echo ", beside busy loops")
  echo "round $round: $result ($counts, $skipped skipped) in $((SECONDS - start)) s$beside"
  if [ "$result" = FAILED ]; then
    failed=1
    grep -ah '^test .*FAILED' "$out/$round".*
  fi
done
exit "$failed"
