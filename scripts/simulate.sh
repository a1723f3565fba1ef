#!/usr/bin/env bash
# Simulation seeds, each in two processes whose traces are compared byte for byte; then the planted bugs, each of
# which has to be found. The short run takes about 75 s on two cores. Usage: scripts/simulate.sh [short|long]
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:$PATH"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/trireme/target}"
servers=0..20 logic=0..6 proxies=0..20
[ "${1:-short}" = short ] || servers=0..200 logic=0..300 proxies=0..200
simulation="$CARGO_TARGET_DIR/release/simulation"
"$simulation" world --seeds "$servers" --twice
"$simulation" world --planted leader_restore --within 5
"$simulation" logic --seeds "$logic" --twice
"$simulation" proxy --seeds "$proxies" --twice
"$simulation" proxy --planted all --within 20
