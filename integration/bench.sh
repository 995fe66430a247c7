#!/usr/bin/env bash
# Runs every benchmark on this machine, each in a private network namespace, and prints tables and JSON lines
# (kept in target/bench.jsonl). BENCH_IDLE_SECS shortens the idle measurement.
set -euo pipefail
MINIK_BIN=$(realpath "${1:?usage: bench.sh MINIK_BINARY}")
cd "$(dirname "$0")/.."
. integration/root.sh
export MINIK_BIN PATH=$PWD/target/tools:$PATH:/usr/sbin:/sbin
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY all_proxy

benches=(-p integration --bench cluster --bench failover --bench api -p dataplane -p agent --bench sync -p apiserver --bench store --bench rest)
cargo build --locked --profile ci "${benches[@]}"
as_root env MINIK_BIN="$MINIK_BIN" ${BENCH_IDLE_SECS:+BENCH_IDLE_SECS="$BENCH_IDLE_SECS"} HOME="$HOME" \
  CARGO_HOME="${CARGO_HOME:-$HOME/.cargo}" RUSTUP_HOME="${RUSTUP_HOME:-$HOME/.rustup}" \
  unshare --net --mount --fork --kill-child -- bash -euc '
  ip link set lo up
  export MINIK_TEST_NAMESPACE=$(readlink /proc/self/ns/net)
  for bench in "integration cluster" "integration failover" "integration api" "dataplane sync" "agent sync" "apiserver store" "apiserver rest"; do
    set -- $bench
    printf "\n== %s: %s\n" "$1" "$2"
    cargo bench --locked --offline --profile ci -p "$1" --bench "$2"
  done
' | tee target/bench.txt
grep '^{' target/bench.txt >target/bench.jsonl
echo "the JSON lines are in target/bench.jsonl"
