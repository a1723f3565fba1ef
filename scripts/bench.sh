#!/usr/bin/env bash
# Measurements beside other systems, in one run each.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:$PATH"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/trireme/target}"
scripts/setup.sh test
"$CARGO_TARGET_DIR/release/bench" store "$@"
