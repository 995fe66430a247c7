#!/usr/bin/env bash
# Installs what the demo and the tests need and this machine lacks. Debian and Ubuntu; root, or sudo.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/target/tools
mkdir -p "$tools"
PATH=$tools:$PATH

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

packages=()
need() { command -v "$1" >/dev/null || packages+=("$2"); }
need nft nftables
need ip iproute2
need dig dnsutils
need unshare util-linux
need curl curl
need jq jq
need cc gcc
if [ ${#packages[@]} -gt 0 ]; then
  echo "installing ${packages[*]}"
  as_root apt-get update -q
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}"
fi

# kubectl is in few distributions: from the project's own download site, checked against its published hash, or else
# from the distribution.
kubectl_version=v1.36.2
if ! command -v kubectl >/dev/null; then
  case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) arch=$(uname -m) ;;
  esac
  url=https://dl.k8s.io/release/$kubectl_version/bin/linux/$arch/kubectl
  echo "installing kubectl $kubectl_version"
  if curl -fsSL --connect-timeout 10 -o "$tools/kubectl.new" "$url" &&
    echo "$(curl -fsSL "$url.sha256")  $tools/kubectl.new" | sha256sum --check --quiet; then
    chmod +x "$tools/kubectl.new"
    mv "$tools/kubectl.new" "$tools/kubectl"
  else
    rm -f "$tools/kubectl.new"
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends kubernetes-client
  fi
fi
command -v kubectl >/dev/null || { echo "kubectl is needed: put it on PATH" >&2; exit 1; }
