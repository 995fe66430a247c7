#!/usr/bin/env bash
# Runs every test inside one private network namespace: no packet can leave it, whatever a test does.
# MINIK_BIN is the binary under test; arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${MINIK_BIN:?the binary under test: use 'make test'}"
export MINIK_BIN PATH=$PWD/target/tools:$PATH
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY all_proxy
root=()
[ "$(id -u)" = 0 ] || root=(sudo --preserve-env=PATH,MINIK_BIN,CARGO_HOME,RUSTUP_HOME,HOME)

# Building may need the registry, so it comes first, outside.
cargo test --locked --workspace --exclude minik --no-run "$@"
cargo test --locked -p minik --no-run "$@"

# Cargo itself needs no network any more. The name tells the harness that it is not in the machine's own namespace.
exec "${root[@]}" unshare --net --mount --fork --kill-child -- bash -euc '
  ip link set lo up
  export MINIK_TEST_NAMESPACE=$(readlink /proc/self/ns/net)
  exec cargo test --locked --offline --workspace "$@"
' test "$@"
