#!/usr/bin/env bash
# Installs what is missing, by apt on Debian and Ubuntu, and says what and why.
# Usage: scripts/setup.sh [build] [run] [test] [bench]
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# package|what for
build_packages='gcc|links Rust programs
make|runs the Makefile
pkg-config|finds the C libraries
librocksdb-dev|the storage engine (compiling it from source would take 40 minutes of CPU)
libclang-dev|reads the C headers of RocksDB and seccomp
libseccomp-dev|filters system calls of containers'
run_packages='nftables|service addresses
iproute2|network namespaces, to look at
conntrack|forgets UDP flows to endpoints that are gone'
test_packages='docker-registry|a real registry for the end-to-end tests
umoci|makes images for them
skopeo|copies images into the registry
busybox-static|the content of those images
etcd-server|the peer of the store benchmark
etcd-client|the same
python3-venv|the Python client of Kubernetes
apache2-utils|passwords for that registry
curl|a plain HTTP client
jq|reads JSON in tests'
bench_packages='wrk|load over HTTP/1.1 for the proxy benchmark
nghttp2-client|load over HTTP/2 for it (h2load)
haproxy|a peer of it
nginx-light|another, and its upstream'

# Where there is no Rust yet, rustup is fetched.
if ! PATH="$HOME/.cargo/bin:$PATH" command -v cargo >/dev/null 2>&1; then
  build_packages+='
curl|fetches rustup
ca-certificates|knows who it is fetched from'
fi

packages_for() {
  case "$1" in
    build) printf '%s\n' "$build_packages" ;;
    run) printf '%s\n' "$run_packages" ;;
    test) printf '%s\n' "$test_packages" ;;
    bench) printf '%s\n' "$bench_packages" ;;
    *) fail "unknown part $1; the parts are: build run test bench" ;;
  esac
}

missing=()
reasons=()
for part in "$@"; do
  while IFS='|' read -r package why; do
    if ! command -v dpkg-query >/dev/null 2>&1; then
      missing+=("$package"); reasons+=("$package: $why"); continue
    fi
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    if [ "$state" != installed ]; then
      missing+=("$package"); reasons+=("$package: $why")
    fi
  done < <(packages_for "$part")
done

if [ ${#missing[@]} -gt 0 ]; then
  if ! command -v apt-get >/dev/null 2>&1; then
    say 'this is neither Debian nor Ubuntu; please install the equivalents of:'
    printf '  %s\n' "${reasons[@]}"
    fail 'then run this again (RocksDB 7.8 or later with headers, libclang, libseccomp with headers, nft, ip)'
  fi
  say 'installing with apt-get:'
  printf '  %s\n' "${reasons[@]}"
  sudo=
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || fail 'run as root, or install sudo'
    sudo=sudo
  fi
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  # The registry, etcd, haproxy and nginx are programs for tests and benchmarks here, not services of this machine.
  policy=
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    policy=1
    printf '#!/bin/sh\nexit 101\n' | $sudo tee /usr/sbin/policy-rc.d >/dev/null
    $sudo chmod +x /usr/sbin/policy-rc.d
  fi
  status=0
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || status=$?
  [ -z "$policy" ] || $sudo rm -f /usr/sbin/policy-rc.d
  [ "$status" = 0 ] || fail "apt-get install ${missing[*]} failed; run it by hand to see why"
fi

case " $* " in *' build '*)
  export PATH="$HOME/.cargo/bin:$PATH"
  if ! command -v cargo >/dev/null 2>&1; then
    say 'installing Rust with rustup (no cargo on the PATH)'
    command -v curl >/dev/null 2>&1 || fail 'curl is needed to fetch rustup: apt-get install curl'
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c clippy -c rustfmt \
      || fail 'rustup could not be fetched; install Rust 1.95 or later yourself (https://rustup.rs)'
  fi
  need=1.95
  have=$(rustc --version | cut -d' ' -f2)
  [ "$(printf '%s\n%s\n' "$need" "$have" | sort -V | head -1)" = "$need" ] \
    || fail "rustc $have is older than $need; run: rustup update stable"
  ;;
esac
