#!/usr/bin/env bash
# Measurements beside other systems, in one run each.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:$PATH"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/trireme/target}"
case "${1:-all}" in
  store) shift; scripts/setup.sh test; "$CARGO_TARGET_DIR/release/bench" store "$@" ;;
  proxy) shift; scripts/setup.sh test bench; scripts/peers.sh; "$CARGO_TARGET_DIR/release/bench" proxy "$@" ;;
  mesh)
    # Network namespaces and interception need root.
    shift; scripts/setup.sh run
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo "$CARGO_TARGET_DIR/release/bench" mesh "$@"
    ;;
  all)
    scripts/setup.sh run test bench
    scripts/peers.sh
    "$CARGO_TARGET_DIR/release/bench" store
    "$CARGO_TARGET_DIR/release/bench" proxy
    "$0" mesh
    ;;
  *) scripts/setup.sh test; "$CARGO_TARGET_DIR/release/bench" store "$@" ;;
esac
