#!/usr/bin/env bash
# Searches, by cargo-fuzz, for bytes that break one of the properties of fuzz/properties, as many at a time as there
# are cores. Begins with the committed corpus and what earlier runs on this machine found interesting.
# Usage: scripts/fuzz.sh [SECONDS [PROPERTY...]]
# A find is left in ~/.cache/trireme/fuzz/finds/PROPERTY: its bytes belong into fuzz/corpus/PROPERTY with the fix.
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

# The same versions as everywhere else; cargo adds what only the program for libFuzzer needs.
cp Cargo.lock fuzz/Cargo.lock
export CARGO_TARGET_DIR="$place/target"
[ $# -gt 0 ] || mapfile -t properties < <(ls fuzz/corpus)
[ $# -eq 0 ] || properties=("$@")
begin=$SECONDS
(cd fuzz/properties && cargo +nightly fuzz build --fuzz-dir .. properties 2>&1) | sed -n '/^error/,$p'
echo "fuzz: built in $((SECONDS - begin)) s"
program=$(ls -t "$CARGO_TARGET_DIR"/*/release/properties | head -n 1)
corpus="$PWD/fuzz/corpus"

# Searches one property, and says in one go how it went.
search() {
  local property="$1" log="$place/$1.log" status=0
  mkdir -p "$place/corpus/$property" "$place/finds/$property"
  # Other processes of this machine may take the core: a hang is what takes several times the usual patience.
  TRIREME_PROPERTY="$property" "$program" "$place/corpus/$property" "$corpus/$property" \
    -max_total_time="$seconds" -max_len=4096 -timeout=60 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$place/finds/$property/" >"$log" 2>&1 || status=$?
  if [ "$status" = 0 ]; then
    printf 'fuzz: %-14s held for %9s inputs, %s\n' "$property" \
      "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
      "$(sed -n 's/^.*DONE *\(cov: [0-9]* ft: [0-9]*\).*$/\1/p' "$log")"
  else
    printf '%s\nfuzz: %s: FAILED; the bytes are in %s\n' "$(tail -n 40 "$log")" "$property" "$place/finds/$property"
  fi
  return "$status"
}

failed=0
running=0
for property in "${properties[@]}"; do
  if [ "$running" -ge "$(nproc)" ]; then
    wait -n || failed=$((failed + 1))
    running=$((running - 1))
  fi
  search "$property" &
  running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
  wait -n || failed=$((failed + 1))
  running=$((running - 1))
done
[ "$failed" -eq 0 ] || { echo "fuzz: $failed of ${#properties[@]} properties failed"; exit 1; }
echo "fuzz: ${#properties[@]} properties held"
