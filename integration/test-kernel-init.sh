#!/bin/sh
# The first and only process tree of a virtual machine of test-kernel.sh: mounts, runs the tests, says how they ended.
PATH=/bin
export PATH HOME=/root
# Containers pivot away from their root, which the kernel refuses when that is its first file system.
if [ "$1" != again ]; then
  mkdir /root/again
  mount --bind / /root/again
  cd /root/again
  mount --move . /
  exec chroot . /init again
fi
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm
mount -t tmpfs tmpfs /dev/shm
exec </dev/null >/dev/console 2>&1
ip link set lo up
modprobe veth
modprobe overlay
echo "kernel-test: Linux $(uname -r)"

# The tests refuse to run in the machine's own network namespace; here it is the only one, and has no way out.
MINIK_TEST_NAMESPACE=$(readlink /proc/self/ns/net)
export MINIK_TEST_NAMESPACE RUST_BACKTRACE=0

# tries WHAT COMMAND...: until it succeeds, for as long as an emulated machine may need.
tries() {
  what=$1
  shift
  deadline=$(($(date +%s) + 300))
  until "$@" >/tmp/said 2>&1; do
    if [ "$(date +%s)" -gt $deadline ]; then
      echo "smoke: not within 300 s: $what"
      cat /tmp/said
      tail -n 20 /tmp/minik.log
      return 1
    fi
    sleep 1
  done
  echo "smoke: $what"
}

# A node with the server in the same process; a Service on it is answered to the node by address, and to a Pod by name.
smoke() {
  ip link add uplink type dummy
  ip addr add 192.0.2.10/24 dev uplink
  ip link set uplink up
  ip route add default via 192.0.2.1
  minik server --agent --node-name solo >/tmp/minik.log 2>&1 &
  export KUBECONFIG=/var/lib/minik/server/admin.kubeconfig
  tries "the node is ready" kubectl wait --for=condition=Ready node/solo --timeout=20s &&
    tries "the manifest is applied" kubectl apply -f /smoke.yaml &&
    tries "the Pod is ready" kubectl wait --for=condition=Ready pod/server --timeout=20s &&
    tries "the Service answers by its address" minik fetch http://10.96.7.7/ &&
    tries "and to a Pod by its name" kubectl wait --for=jsonpath='{.status.phase}'=Succeeded pod/client --timeout=20s &&
    tries "the Pods go" kubectl delete pod --all --timeout=60s &&
    tries "and nobody answers" refused
}

refused() {
  ! minik fetch http://10.96.7.7/
}

# "dataplane" runs a test program, "dataplane:WORD" those of its tests that have WORD in their name.
run() {
  case $1 in
    smoke) smoke ;;
    *:*) "/tests/${1%%:*}" --test-threads=2 "${1#*:}" ;;
    *) "/tests/$1" --test-threads=2 ;;
  esac
}

tests=$(sed -n 's/.*minik_tests=\([^ ]*\).*/\1/p' /proc/cmdline)
failed=
IFS=,
for test in $tests; do
  run "$test" || failed="$failed $test"
done
if [ -z "$failed" ]; then
  echo "kernel-test: passed"
else
  echo "kernel-test: failed:$failed"
fi
echo o >/proc/sysrq-trigger
sleep 60
