#!/usr/bin/env bash
# Licences, banned crates and sources, by cargo-deny (deny.toml). Uses the cargo-deny on the PATH; where
# there is none, builds one into a folder of its own (about four minutes of CPU, once).
set -euo pipefail
cd "$(dirname "$0")/.."
tools="$HOME/.cache/trireme/tools"
export PATH="$HOME/.cargo/bin:$tools/bin:$PATH"
if ! command -v cargo-deny >/dev/null 2>&1; then
  echo "deny: installing cargo-deny 0.20.2 into $tools"
  CARGO_TARGET_DIR="$tools/target" cargo install cargo-deny --version 0.20.2 --locked --no-default-features --quiet --root "$tools"
  rm -rf "$tools/target"
fi
cargo-deny --locked check licenses bans sources
