#!/usr/bin/env bash
# Runs the tests of the dataplane, and a server with a node, on stock kernels of Debian releases: each in a virtual machine without
# disk, network card or KVM, so that it runs anywhere and nothing can leave it. Takes minutes: instructions are emulated.
#
#   test-kernel.sh MINIK_BINARY [RELEASE...]      releases: bullseye (5.10), bookworm (6.1), trixie (6.12), ...
#
# TESTS names test binaries and filters instead, "dataplane" or "dataplane:kernel:: smoke"; KERNEL_TEST_SECS is the time one kernel gets.
# All that is downloaded and made stays in target/kernel.
set -euo pipefail
minik=$(realpath "${1:?usage: test-kernel.sh MINIK_BINARY [RELEASE...]}")
shift
[ $# -gt 0 ] || set -- bullseye bookworm trixie
cd "$(dirname "$0")/.."
. integration/root.sh
PATH=$PWD/target/tools:$PATH:/usr/sbin:/sbin
work=$PWD/target/kernel
limit=${KERNEL_TEST_SECS:-1800}
tests=${TESTS:-dataplane smoke}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org}
[ "$(uname -m)" = x86_64 ] || { echo "test-kernel.sh: works on x86_64 only" >&2; exit 1; }
mkdir -p "$work"

# apt_for RELEASE COMMAND...: apt with that release's packages only; this machine's own lists stay as they are.
apt_for() {
  local release=$1 root=$work/apt/$1 tool=$2
  shift 2
  "$tool" -q -o Dir::Etc::sourcelist="$root/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
    -o Dir::State="$root/state" -o Dir::State::status="$root/status" -o Dir::Cache="$root/cache" \
    -o APT::Sandbox::User="$(id -un)" -o APT::Architecture=amd64 -o APT::Architectures=amd64 "$@"
}

# Leaves the unpacked kernel package of a release in $work/RELEASE and prints the kernel's version.
fetch_kernel() {
  local release=$1 root=$work/apt/$1 keys=/usr/share/keyrings/debian-archive-keyring.gpg image
  mkdir -p "$root/state/lists/partial" "$root/cache/archives/partial" "$work/$release"
  touch "$root/status"
  printf 'deb [signed-by=%s] %s\n' "$keys" "$mirror/debian $release main" "$keys" "$mirror/debian-security $release-security main" \
    >"$root/sources.list"
  apt_for "$release" apt-get update >&2
  image=$(apt_for "$release" apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
  [ -n "$image" ] || { echo "test-kernel.sh: $mirror has no linux-image-amd64 of $release" >&2; return 1; }
  if [ ! -e "$work/$release/$image" ]; then
    rm -rf "${work:?}/$release"
    mkdir -p "$work/$release"
    (cd "$work/$release" && apt_for "$release" apt-get download "$image" >&2)
    dpkg -x "$work/$release"/linux-image-*.deb "$work/$release"
    rm "$work/$release"/linux-image-*.deb
    touch "$work/$release/$image"
  fi
  echo "${image#linux-image-}"
}

# copy_program ROOT PROGRAM: with the libraries it needs.
copy_program() {
  local root=$1 program
  program=$(realpath "$(command -v "$2")") || { echo "test-kernel.sh: needs $2" >&2; return 1; }
  cp "$program" "$root/bin/$2"
  { ldd "$program" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -Lu "$library" "$root$library"
  done
}

# What every kernel's first file system has in common.
make_root() {
  local root=$1 program
  rm -rf "$root"
  mkdir -p "$root"/{bin,dev,etc,proc,sys,run,tmp,var/log,var/lib,root,tests,lib/modules}
  ln -s bin "$root/sbin"
  mkdir "$root/usr"
  ln -s ../bin "$root/usr/bin"
  ln -s ../bin "$root/usr/sbin"
  for program in bash mount mkdir cat sleep sed uname readlink date tail chroot ip nft sysctl setpriv modprobe kubectl; do
    copy_program "$root" "$program"
  done
  ln -s bash "$root/bin/sh"
  printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
  printf 'root:x:0:\n' >"$root/etc/group"
  printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
  # So that nft prints names.
  printf 'tcp 6 TCP\nudp 17 UDP\nsctp 132 SCTP\n' >"$root/etc/protocols"
  cp integration/test-kernel-init.sh "$root/init"
  cp integration/test-kernel-smoke.yaml "$root/smoke.yaml"
  cp "$minik" "$root/bin/minik"
  cp "$work/tests/"* "$root/tests/"
}

# The modules that this kernel may load: all of networking, and what mounting images needs.
copy_modules() {
  local root=$1 from=$2 version=$3 modules=$1/lib/modules/$3 part
  mkdir -p "$modules"
  cp "$from/modules.order" "$from/modules.builtin" "$from/modules.builtin.modinfo" "$modules/"
  for part in net lib crypto arch fs/overlayfs drivers/net/dummy.ko* drivers/net/veth.ko*; do
    for part in "$from/kernel/"$part; do
      mkdir -p "$modules/kernel/$(dirname "${part#"$from/kernel/"}")"
      cp -r "$part" "$modules/kernel/$(dirname "${part#"$from/kernel/"}")/"
    done
  done
  depmod -b "$root" "$version"
}

# boot RELEASE VERSION: fails unless the machine says that all its tests passed.
boot() {
  local release=$1 version=$2 root=$work/root.$1 log=$work/$1.log from
  make_root "$root"
  from=$(find "$work/$release" -type d -path "*lib/modules/$version")
  copy_modules "$root" "$from" "$version"
  (cd "$root" && find . | cpio -o -H newc --quiet) >"$work/$release.cpio"
  rm -rf "$root"
  echo "== $release: Linux $version (log: $log)"
  timeout "$limit" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 3G -nodefaults -no-reboot -display none -serial stdio \
    -kernel "$work/$release/boot/vmlinuz-$version" -initrd "$work/$release.cpio" \
    -append "console=ttyS0 quiet panic=-1 minik_tests=${tests// /,}" </dev/null 2>&1 | tr -d '\r' | tee "$log" || true
  grep -q '^kernel-test: passed' "$log"
}

# Static test programs, so that they need nothing of the machine they run on.
build_tests() {
  local built
  mkdir -p "$work/tests"
  built=$(RUSTFLAGS='-C target-feature=+crt-static' cargo test --locked --target x86_64-unknown-linux-gnu --profile ci -p dataplane --test dataplane \
    --no-run --message-format=json | jq -r 'select(.profile.test and .executable) | .executable')
  cp "$built" "$work/tests/dataplane"
}

build_tests
failed=()
for release in "$@"; do
  version=$(fetch_kernel "$release")
  boot "$release" "$version" || failed+=("$release ($version)")
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "test-kernel.sh: failed on: ${failed[*]}" >&2
  exit 1
fi
