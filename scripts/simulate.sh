#!/usr/bin/env bash
# Simulation seeds, each in two processes whose traces are compared byte for byte; then the planted bug,
# which has to be found. Usage: scripts/simulate.sh [short|long]
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:$PATH"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/trireme/target}"
seeds=0..30
[ "${1:-short}" = short ] || seeds=0..500
simulation="$CARGO_TARGET_DIR/release/simulation"
"$simulation" world --seeds "$seeds" --twice
"$simulation" world --planted leader_restore --within 5
