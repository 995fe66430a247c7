#!/usr/bin/env bash
# Installs the official Python client for the tests, in a virtual environment of its own: target/tools/python.
set -euo pipefail
cd "$(dirname "$0")/.."
. integration/root.sh
client=kubernetes==36.0.2
home=target/tools/python

[ "$("$home/bin/pip" freeze 2>/dev/null | grep '^kubernetes==')" != "$client" ] || exit 0
python=python3
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
