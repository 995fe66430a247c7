#!/usr/bin/env bash
# Runs the benchmarks of the dataplane in private network namespaces, and prints tables and JSON lines (kept in
# target/bench-dataplane.jsonl). With a number, that many Services are loaded with a chain each: 30000 take many minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
. integration/root.sh
export PATH=$PWD/target/tools:$PATH:/usr/sbin:/sbin
chains=${1:+--chains $1}

cargo build --locked --profile ci --benches -p dataplane -p agent
as_root env CHAINS="$chains" HOME="$HOME" CARGO_HOME="${CARGO_HOME:-$HOME/.cargo}" RUSTUP_HOME="${RUSTUP_HOME:-$HOME/.rustup}" \
  unshare --net --mount --fork --kill-child -- bash -euc '
  ip link set lo up
  bench() {
    printf "\n== %s: %s\n" "$1" "$2"
    cargo bench --locked --offline --profile ci -p "$1" --bench "$2" -- "${@:3}"
  }
  bench dataplane sync 1000x10 10000x10 30000x10 5000x50
  bench agent sync 1000x10 10000x10 30000x10 30000x4
  bench dataplane shapes $CHAINS
' | tee target/bench-dataplane.txt
grep '^{' target/bench-dataplane.txt >target/bench-dataplane.jsonl
echo "the JSON lines are in target/bench-dataplane.jsonl"
