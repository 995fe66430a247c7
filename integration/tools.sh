#!/usr/bin/env bash
# Installs what the demo and the tests need and this machine lacks. Debian and Ubuntu; root, or sudo.
# With the argument `vm` also what test-kernel.sh needs. KUBECTL_URL names a mirror of https://dl.k8s.io/release.
set -euo pipefail
cd "$(dirname "$0")/.."
. integration/root.sh
tools=$PWD/target/tools
mkdir -p "$tools"
# A user's PATH may lack the directories of nft and ip.
PATH=$tools:$PATH:/usr/sbin:/sbin

packages=()
need() { command -v "$1" >/dev/null || packages+=($2); }
need nft nftables
need ip iproute2
need dig dnsutils
need unshare util-linux
need setpriv util-linux
need pgrep procps
need curl curl
need jq jq
need cc gcc
if [ "${1:-}" = vm ]; then
  need qemu-system-x86_64 "qemu-system-x86 seabios"
  need cpio cpio
  need depmod kmod
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || packages+=(debian-archive-keyring)
fi
[ -e /etc/ssl/certs/ca-certificates.crt ] || packages+=(ca-certificates)
if [ ${#packages[@]} -gt 0 ]; then
  install "${packages[@]}" || { echo "tools.sh: needed and not installed: ${packages[*]}" >&2; exit 1; }
fi

# kubectl is in few distributions, and old there: from the project's own download site, checked against its published hash.
kubectl_version=v1.36.2
download() { curl -fsSL --connect-timeout 10 --retry 2 -o "$2" "$1"; }

# 0: installed. 1: not to be had. A file that is not what was published ends the script.
download_kubectl() {
  local arch url new=$tools/kubectl.new wanted got
  case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) arch=$(uname -m) ;;
  esac
  url=${KUBECTL_URL:-https://dl.k8s.io/release}/$kubectl_version/bin/linux/$arch/kubectl
  echo "installing kubectl $kubectl_version from $url"
  trap 'rm -f "$tools/kubectl.new" "$tools/kubectl.sha256"' EXIT
  download "$url.sha256" "$tools/kubectl.sha256" && download "$url" "$new" || return 1
  wanted=$(cut -c1-64 "$tools/kubectl.sha256")
  got=$(sha256sum "$new" | cut -c1-64)
  if [ "$got" != "$wanted" ]; then
    echo "tools.sh: $url is not what was published: its SHA-256 is $got, wanted $wanted. Nothing was installed." >&2
    exit 1
  fi
  chmod +x "$new"
  mv "$new" "$tools/kubectl"
}

if ! command -v kubectl >/dev/null; then
  download_kubectl || install kubernetes-client || {
    echo "tools.sh: kubectl is needed, and neither its download site nor the distribution has it (is this machine offline?):" >&2
    echo "  put kubectl on PATH or into target/tools, or set KUBECTL_URL to a mirror of https://dl.k8s.io/release" >&2
    exit 1
  }
fi
