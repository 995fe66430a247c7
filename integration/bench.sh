#!/usr/bin/env bash
# Runs every benchmark on this machine, each in a private network namespace, and prints tables and JSON lines
# (kept in target/bench.jsonl). BENCH_IDLE_SECS shortens the idle measurement.
set -euo pipefail
cd "$(dirname "$0")/.."
MINIK_BIN=$(realpath "${1:?usage: bench.sh MINIK_BINARY}")
export MINIK_BIN PATH=$PWD/target/tools:$PATH
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY all_proxy
[ "$(id -u)" = 0 ] || exec sudo --preserve-env=PATH,MINIK_BIN,CARGO_HOME,RUSTUP_HOME,HOME,BENCH_IDLE_SECS "$0" "$@"

benches=(-p integration --bench cluster -p dataplane --bench sync -p apiserver --bench store)
cargo build --locked --profile ci "${benches[@]}"
unshare --net --mount --fork --kill-child -- bash -euc '
  ip link set lo up
  export MINIK_TEST_NAMESPACE=$(readlink /proc/self/ns/net)
  for bench in "integration cluster" "dataplane sync" "apiserver store"; do
    set -- $bench
    printf "\n== %s: %s\n" "$1" "$2"
    cargo bench --locked --offline --profile ci -p "$1" --bench "$2"
  done
' | tee target/bench.txt
grep '^{' target/bench.txt >target/bench.jsonl
echo "the JSON lines are in target/bench.jsonl"
