#!/usr/bin/env bash
# Runs everything at once (tests/integration/soak) for SECONDS, 20 minutes by default, and prints the account: connections
# by the reason of their end, bytes, open files, memory.
#
#   tests/soak.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
POINTSMAN_SOAK=${1:-1200} cargo test --locked --test integration soak:: -- --nocapture
