#!/usr/bin/env bash
# Shows a Service at work on a three-node lab: every step prints the command, what was answered, and whether that is what a
# Service promises. Ends with a summary; exit code 0 when all of it held. KEEP=1 leaves the lab up.
set -uo pipefail
cd "$(dirname "$0")/.."
minik=$(realpath "${1:?usage: demo.sh MINIK_BINARY}")
lab=${LAB:-demo}
PATH=$PWD/target/tools:$PATH
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY all_proxy
export MINIK_LAB=$lab
[ "$(id -u)" = 0 ] || exec sudo --preserve-env=PATH,KEEP,LAB "$0" "$@"

if [ -t 1 ]; then bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'; else bold='' green='' red='' plain=''; fi
passed=0
failures=()
started=$SECONDS

title() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
pass() { passed=$((passed + 1)); printf '%s   ok: %s%s\n' "$green" "$1" "$plain"; }
fail() { failures+=("$1"); printf '%s   FAILED: %s%s\n' "$red" "$1" "$plain"; }
show() { printf '%s$ %s%s\n' "$bold" "$*" "$plain"; }
# Runs a command that must succeed: check "what it shows" command...
check() {
  local what=$1
  shift
  show "$*"
  if "$@"; then pass "$what"; else fail "$what"; fi
}
on_node() { "$minik" lab exec "$1" -- "${@:2}"; }
in_pod() { "$minik" lab exec node1 --pod client -- /minik "$@"; }

finish() {
  if [ "${KEEP:-}" = 1 ]; then
    printf '\nThe lab stays up:\n  export KUBECONFIG=/run/minik-lab/%s/kubeconfig\n' "$lab"
    printf '  %s lab --name %s exec node1 -- bash      # enter a node\n' "$minik" "$lab"
    printf '  %s lab --name %s down\n' "$minik" "$lab"
  else
    "$minik" lab down
  fi
}
interrupted() { trap - INT TERM; finish; exit 130; }
trap interrupted INT TERM

title "A cluster of three nodes, a client and a database outside of it"
check "the lab is up" "$minik" lab up --nodes 3
if [ ${#failures[@]} -gt 0 ]; then exit 1; fi
export KUBECONFIG=/run/minik-lab/$lab/kubeconfig
check "kubectl sees the nodes" kubectl get nodes -o wide

title "my-service: a name and a virtual IP in front of three Pods"
check "applied" kubectl apply -f examples/my-service.yaml -f examples/client.yaml
check "the Pods run" kubectl wait --for=condition=Ready pod --all --timeout=30s
check "the Pods are on three nodes" bash -c \
  'kubectl get pods -o wide; [ "$(kubectl get pods -l app=MyApp -o jsonpath="{range .items[*]}{.spec.nodeName}{\"\n\"}{end}" | sort -u | wc -l)" = 3 ]'
check "the Service has three endpoints" bash -c \
  'kubectl get services,endpoints,endpointslices -o wide; [ "$(kubectl get endpoints my-service -o json | jq "[.subsets[].addresses[]] | length")" = 3 ]'
ip=$(kubectl get service my-service -o jsonpath='{.spec.clusterIP}')
check "reached by ClusterIP from a Pod" in_pod fetch "http://$ip/"
check "reached by ClusterIP from a node" on_node node2 "$minik" fetch "http://$ip/"
for name in my-service my-service.default my-service.default.svc.cluster.local; do
  check "reached by name: $name" in_pod fetch "http://$name/"
done
spread() { # spread WANTED-PODS... : 40 connections reach exactly these
  local answers got wanted
  answers=$(in_pod fetch --json --count 40 http://my-service/) || { echo "$answers"; return 1; }
  got=$(jq -rs '[.[] | .hostname] | unique | join(" ")' <<<"$answers")
  wanted=$*
  jq -rs 'group_by(.hostname)[] | "   \(.[0].hostname) answered \(length) of 40"' <<<"$answers"
  [ "$got" = "$wanted" ] || { echo "   wanted $wanted, got $got"; return 1; }
}
check "40 connections are spread over all three Pods" spread my-app-1 my-app-2 my-app-3

title "A Pod goes, another comes: the Service follows, nobody is reconfigured"
check "deleted" kubectl delete pod my-app-2 --grace-period=1
check "created" kubectl apply -f examples/my-app-4.yaml
check "the new Pod runs" kubectl wait --for=condition=Ready pod/my-app-4 --timeout=30s
check "the Service is where the Pods are" bash -c 'kubectl get endpoints my-service'
check "40 connections are spread over the Pods there are now" spread my-app-1 my-app-3 my-app-4

title "external-database: no selector, endpoints written by hand"
check "applied" kubectl apply -f examples/external-database.yaml
check "reached through the Service from a Pod" in_pod fetch --retry 5 http://external-database/
refused() {
  local answer
  answer=$(kubectl apply -f examples/wrong-endpoints.yaml 2>&1) && { echo "$answer"; return 1; }
  echo "$answer"
  grep -q 10.96.0.10 <<<"$answer" && grep -q 127.0.0.1 <<<"$answer" && grep -q 169.254.1.1 <<<"$answer"
}
check "endpoints that name a ClusterIP, loopback or link-local address are refused" refused

title "my-node-port: from outside the cluster, through any node"
check "applied" kubectl apply -f examples/node-port.yaml
for node in node1 node2 node3; do
  addr=$(kubectl get node "$node" -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}')
  check "reached from the outside client through $node" on_node client "$minik" fetch --retry 5 "http://$addr:30080/"
done

title "Summary"
printf '%d checks passed, %d failed, in %d s\n' "$passed" "${#failures[@]}" "$((SECONDS - started))"
for failure in "${failures[@]}"; do printf '%s   FAILED: %s%s\n' "$red" "$failure" "$plain"; done
if [ ${#failures[@]} -gt 0 ]; then
  for log in /run/minik-lab/"$lab"/*/log/{server,agent}.log; do
    [ -s "$log" ] && { printf '\n-- the end of %s\n' "$log"; tail -n 15 "$log"; }
  done
fi
finish
[ ${#failures[@]} -eq 0 ]
