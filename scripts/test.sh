#!/usr/bin/env bash
# Everything that CI runs, part by part, with a table of what ran and how long it took at the end.
# Usage: scripts/test.sh [long]
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:$PATH"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/trireme/target}"
export CARGO_TERM_COLOR=never
mode=${1:-short}

if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null 2>&1 || { echo 'test: containers need root; run as root or install sudo' >&2; exit 1; }
  exec sudo --preserve-env=CARGO_TARGET_DIR,HOME,PATH "$0" "$@"
fi

names=() times=() results=()
failed=0 skipped=0
part() {
  local name=$1; shift
  printf '\n=== %s: %s\n' "$name" "$*"
  local begin=$SECONDS status=0
  "$@" || status=$?
  names+=("$name"); times+=($((SECONDS - begin)))
  if [ "$status" = 0 ]; then results+=(passed)
  elif [ "$status" = 75 ]; then results+=('not run, see above'); skipped=$((skipped + 1))
  else results+=("FAILED ($status)"); failed=$((failed + 1)); fi
}

part 'set-up' scripts/setup.sh build run test
part 'format' cargo fmt --all --check
part 'clippy' cargo clippy --locked --workspace --all-targets -- -D warnings
part 'purity' cargo run --locked --release --quiet --package xtask -- tidy
part 'licences' scripts/deny.sh
part 'build' scripts/build.sh --tests
part 'unit and property tests' cargo test --locked --release --workspace --exclude e2e --exclude oracle --lib --bins --tests --no-fail-fast
part 'simulation' scripts/simulate.sh "$mode"
part 'stock clients' scripts/peers.sh
part 'oracle' cargo test --locked --release --workspace --test oracle --no-fail-fast -- --nocapture
# Selected over the whole workspace, so that cargo unifies the same features and compiles nothing again.
part 'end to end' cargo test --locked --release --workspace --test 'e2e_*' --no-fail-fast -- --test-threads=1 --nocapture
if [ "$mode" = long ]; then
  part 'fuzzing' scripts/fuzz.sh 45
  part 'measurements' scripts/bench.sh
fi

printf '\n%-28s %8s  %s\n' part seconds result
total=0
for index in "${!names[@]}"; do
  printf '%-28s %8d  %s\n' "${names[$index]}" "${times[$index]}" "${results[$index]}"
  total=$((total + times[index]))
done
printf '%-28s %8d\n' all "$total"
printf '%d passed, %d failed, %d skipped\n' $((${#names[@]} - failed - skipped)) "$failed" "$skipped"
[ "$failed" = 0 ]
