#!/usr/bin/env bash
# Fails when a source file is declared by no module: it would never be compiled, its tests never run.
set -euo pipefail
cd "$(dirname "$0")/.."
found=0
while read -r file; do
  name=$(basename "$file" .rs)
  case $name in main | lib | mod | build) continue ;; esac
  case $file in */tests/*.rs | */benches/*.rs | */examples/*.rs | */src/bin/*.rs) continue ;; esac
  if ! git grep -qE "mod +(r#)?$name\b" -- '*.rs'; then
    echo "$file: no module declares it" >&2
    found=1
  fi
done < <(git ls-files '*.rs')
exit $found
