#!/usr/bin/env bash
# Builds the release binaries; all of the workspace at once, so that features are the same everywhere
# and nothing is compiled twice. Usage: scripts/build.sh [--tests]
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:$PATH"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/trireme/target}"
libraries="/usr/lib/$(gcc -dumpmachine)"
if [ -e "$libraries/librocksdb.so" ]; then
  export ROCKSDB_LIB_DIR="$libraries" ROCKSDB_INCLUDE_DIR=/usr/include
else
  echo 'build: no librocksdb.so of this distribution; building the bundled RocksDB (about 40 minutes of CPU, once)'
  unset ROCKSDB_LIB_DIR ROCKSDB_INCLUDE_DIR
fi
echo "build: cargo build --release (target directory $CARGO_TARGET_DIR)"
cargo build --release --locked --workspace --bins "$@"
