#!/usr/bin/env bash
# Searches, by cargo-fuzz, for bytes that break one of the properties of fuzz/properties. Begins with the committed
# corpus and what earlier runs on this machine found interesting. Usage: scripts/fuzz.sh [SECONDS [TARGET...]]
# A find is left in ~/.cache/trireme/fuzz/finds/TARGET: its bytes belong into fuzz/corpus/TARGET with the fix.
# Exits with 75 where a nightly compiler or cargo-fuzz is missing: the same properties hold in `make test` by a seed.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.13.2
seconds=${1:-60}
[ $# -eq 0 ] || shift
tools="$HOME/.cache/trireme/tools"
place="$HOME/.cache/trireme/fuzz"
export PATH="$HOME/.cargo/bin:$tools/bin:$PATH"

missing() { printf 'fuzz: not run: %s\n' "$*" >&2; exit 75; }
command -v rustup >/dev/null 2>&1 || missing 'there is no rustup to bring a nightly compiler'
if ! rustup toolchain list | grep -q '^nightly'; then
  echo 'fuzz: installing a nightly compiler with rustup (libFuzzer needs one)'
  rustup toolchain install nightly --profile minimal || missing 'no nightly compiler: rustup toolchain install nightly'
fi
if ! "$tools/bin/cargo-fuzz" --version 2>/dev/null | grep -qx "cargo-fuzz $version"; then
  echo "fuzz: installing cargo-fuzz $version into $tools"
  CARGO_TARGET_DIR="$tools/target" cargo install cargo-fuzz --version "$version" --locked --quiet --force --root "$tools" \
    || missing "no cargo-fuzz: cargo install cargo-fuzz --version $version --locked --root $tools"
  rm -rf "$tools/target"
fi

# The same versions as everywhere else; cargo adds what only the targets need.
cp Cargo.lock fuzz/Cargo.lock
export CARGO_TARGET_DIR="$place/target"
cd fuzz/properties
[ $# -gt 0 ] || mapfile -t targets < <(cargo +nightly fuzz list --fuzz-dir ..)
[ $# -eq 0 ] || targets=("$@")
cargo +nightly fuzz build --fuzz-dir .. 2>&1 | sed -n '/^error/,$p'
failed=()
for target in "${targets[@]}"; do
  mkdir -p "$place/corpus/$target" "$place/finds/$target"
  printf 'fuzz: %s for %s s\n' "$target" "$seconds"
  log="$place/$target.log"
  if cargo +nightly fuzz run --fuzz-dir .. "$target" "$place/corpus/$target" "../corpus/$target" -- \
    -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$place/finds/$target/" >"$log" 2>&1; then
    sed -n 's/^stat::number_of_executed_units: */fuzz:   held for inputs: /p; s/^.*\(cov: [0-9]*\).*DONE.*$/fuzz:   \1/p' "$log"
  else
    failed+=("$target")
    tail -n 40 "$log"
    echo "fuzz: $target: FAILED; the bytes are in $place/finds/$target"
  fi
done
[ ${#failed[@]} -eq 0 ] || { echo "fuzz: failed: ${failed[*]}"; exit 1; }
