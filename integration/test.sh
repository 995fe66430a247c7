#!/usr/bin/env bash
# Runs every test inside one private network namespace: no packet can leave it, whatever a test does.
# MINIK_BIN is the binary under test; arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
. integration/root.sh
: "${MINIK_BIN:?the binary under test: use 'make test'}"
PATH=$PWD/target/tools:$PATH:/usr/sbin:/sbin
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY all_proxy

# Building may need the registry, so it comes first, outside.
cargo test --locked --workspace --exclude minik --no-run "$@"
cargo test --locked -p minik --no-run "$@"

# Cargo itself needs no network any more. The name tells the harness that it is not in the machine's own namespace.
as_root env MINIK_BIN="$MINIK_BIN" HOME="$HOME" CARGO_HOME="${CARGO_HOME:-$HOME/.cargo}" RUSTUP_HOME="${RUSTUP_HOME:-$HOME/.rustup}" \
  unshare --net --mount --fork --kill-child -- bash -euc '
  ip link set lo up
  export MINIK_TEST_NAMESPACE=$(readlink /proc/self/ns/net)
  # What root wrote there would stop the next build of the user behind sudo.
  give_back() { [ -z "${SUDO_UID:-}" ] || chown -R --from=0 "$SUDO_UID:$SUDO_GID" target; }
  trap give_back EXIT
  cargo test --locked --offline --workspace "$@"
' test "$@"
