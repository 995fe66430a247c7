#!/usr/bin/env bash
# Makes the clients that only tests need: the official Python client in a virtual environment of its own (target/tools/python),
# and, where Go is on the machine, the program that is written with the official Go client (target/tools/go-client).
set -euo pipefail
cd "$(dirname "$0")/.."
. integration/root.sh
mkdir -p target/tools

python_client() {
  local client=kubernetes==36.0.2 home=target/tools/python python=python3
  [ "$("$home/bin/pip" freeze 2>/dev/null | grep '^kubernetes==')" != "$client" ] || return 0
  # Debian keeps the half of venv that installs pip in a package of its own.
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    install python3 python3-venv || { echo "clients.sh: needed and not installed: python3 python3-venv" >&2; exit 1; }
    python=/usr/bin/python3
  fi
  echo "installing $client"
  rm -rf "$home"
  "$python" -m venv "$home"
  "$home/bin/pip" install --quiet --disable-pip-version-check "$client" || {
    rm -rf "$home"
    echo "clients.sh: the Python client cannot be installed from its package index (is this machine offline?)" >&2
    exit 1
  }
}

# Few machines have Go: its absence is no failure. The test reads why there is no program, and says so.
go_client() {
  local program=$PWD/target/tools/go-client why
  if ! command -v go >/dev/null; then
    why="go is not on this machine"
  elif CGO_ENABLED=0 go -C integration/tests/clients/go build -o "$program" .; then
    rm -f "$program.absent"
    return 0
  else
    why="go is on this machine, but cannot build integration/tests/clients/go: its modules are not to be had (is this machine offline?)"
  fi
  rm -f "$program"
  echo "$why" >"$program.absent"
  echo "clients.sh: $why: the test go_client drives nothing" >&2
}

python_client
go_client
