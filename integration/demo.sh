#!/usr/bin/env bash
# Shows a Service at work on a three-node lab: every step prints the command, what was answered, and whether that is what a
# Service promises. Ends with a summary; exit code 0 when all of it held. KEEP=1 leaves the lab up, LAB names it.
set -uo pipefail
minik=$(realpath "${1:?usage: demo.sh MINIK_BINARY}")
script=$(realpath "$0")
cd "$(dirname "$script")/.."
. integration/root.sh
lab=${LAB:-demo}
PATH=$PWD/target/tools:$PATH:/usr/sbin:/sbin
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY all_proxy
export MINIK_LAB=$lab
if [ "$(id -u)" != 0 ]; then
  as_root env KEEP="${KEEP:-}" LAB="$lab" "$script" "$minik"
  exit
fi

if [ -t 1 ]; then bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'; else bold='' green='' red='' plain=''; fi
passed=0
failures=()
started=$SECONDS

title() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
pass() { passed=$((passed + 1)); printf '%s   ok: %s%s\n' "$green" "$1" "$plain"; }
fail() { failures+=("$1"); printf '%s   FAILED: %s%s\n' "$red" "$1" "$plain"; }
# Prints a command as it could be typed, with the binary's short name.
show() {
  local words=("${@/#$minik/minik}")
  printf '%s$ %s%s\n' "$bold" "${words[*]}" "$plain"
}
# Runs a command that must succeed: check WHAT-IT-SHOWS COMMAND...
check() {
  local what=$1
  shift
  show "$@"
  if "$@"; then pass "$what"; else fail "$what"; fi
}
# The same for a function that runs the shown command and looks at its answer: check_that WHAT-IT-SHOWS COMMAND FUNCTION...
check_that() {
  local what=$1
  show "$2"
  shift 2
  if "$@"; then pass "$what"; else fail "$what"; fi
}
from_pod() { check "$1" "$minik" lab exec --pod client -- /minik fetch "${@:2}"; }
from_host() { check "$1" "$minik" lab exec "$2" -- "$minik" fetch "${@:3}"; }

finish() {
  if [ "${KEEP:-}" = 1 ]; then
    local sudo=${SUDO_UID:+sudo }
    printf '\nThe lab stays up:\n  export KUBECONFIG=/run/minik-lab/%s/kubeconfig\n' "$lab"
    printf '  %s lab --name %s exec node1 -- bash   # enter a node\n' "$sudo$minik" "$lab"
    printf '  %s lab --name %s exec --pod client -- /minik fetch http://my-service/\n' "$sudo$minik" "$lab"
    printf '  %s lab --name %s down\n' "$sudo$minik" "$lab"
  else
    "$minik" lab down
  fi
}
interrupted() { trap - INT TERM; finish; exit 130; }

if "$minik" lab status >/dev/null 2>&1; then
  echo "lab \"$lab\" is there already, perhaps from KEEP=1: $minik lab --name $lab down, or choose another name with LAB=" >&2
  exit 1
fi
trap interrupted INT TERM

title "A cluster of three nodes, a client and a database outside of it"
show "export MINIK_LAB=$lab   # minik is $minik"
check "the lab is up" "$minik" lab up --nodes 3
if [ ${#failures[@]} -gt 0 ]; then exit 1; fi
export KUBECONFIG=/run/minik-lab/$lab/kubeconfig
check "kubectl sees the nodes" kubectl get nodes -o wide

title "my-service: a name and a virtual IP in front of three Pods"
check "applied" kubectl apply -f examples/my-service.yaml -f examples/client.yaml
check "the Pods run" kubectl wait --for=condition=Ready pod --all --timeout=30s
three_nodes() {
  kubectl get pods -o wide
  [ "$(kubectl get pods -l app=MyApp -o json | jq '[.items[].spec.nodeName] | unique | length')" = 3 ]
}
check_that "the Pods are on three nodes" "kubectl get pods -o wide" three_nodes
three_endpoints() {
  kubectl get services,endpoints,endpointslices -o wide
  [ "$(kubectl get endpoints my-service -o json | jq '[.subsets[].addresses[]] | length')" = 3 ]
}
check_that "the Service has three endpoints" "kubectl get services,endpoints,endpointslices -o wide" three_endpoints
ip=$(kubectl get service my-service -o jsonpath='{.spec.clusterIP}')
from_pod "reached by ClusterIP from a Pod" "http://$ip/"
from_host "reached by ClusterIP from a node" node2 "http://$ip/"
for name in my-service my-service.default my-service.default.svc.cluster.local; do
  from_pod "reached by name: $name" "http://$name/"
done
spread() { # spread WANTED-PODS... : 40 connections reach exactly these
  local answers got
  answers=$("$minik" lab exec --pod client -- /minik fetch --json --count 40 http://my-service/) || { echo "$answers"; return 1; }
  got=$(jq -rs '[.[] | .hostname] | unique | join(" ")' <<<"$answers")
  jq -rs 'group_by(.hostname)[] | "   \(.[0].hostname) answered \(length) of 40"' <<<"$answers"
  [ "$got" = "$*" ] || { echo "   wanted $*, got $got"; return 1; }
}
forty="$minik lab exec --pod client -- /minik fetch --json --count 40 http://my-service/"
check_that "40 connections are spread over all three Pods" "$forty" spread my-app-1 my-app-2 my-app-3

title "A Pod goes, another comes: the Service follows, nobody is reconfigured"
check "deleted" kubectl delete pod my-app-2 --grace-period=1
check "created" kubectl apply -f examples/my-app-4.yaml
check "the new Pod runs" kubectl wait --for=condition=Ready pod/my-app-4 --timeout=30s
check "the Service is where the Pods are" kubectl get endpoints my-service
check_that "40 connections are spread over the Pods there are now" "$forty" spread my-app-1 my-app-3 my-app-4

title "my-deployment: every Pod is replaced, and nobody notices"
check "applied" kubectl apply -f examples/my-deployment.yaml
check "rolled out" kubectl rollout status deployment/my-deployment --timeout=60s
unnoticed() { # requests all the while, each of which must be answered
  local going failed load
  going=$(mktemp) failed=$(mktemp)
  while [ -e "$going" ]; do
    "$minik" lab exec --pod client -- /minik fetch http://my-deployment/ >/dev/null || echo lost >>"$failed"
  done &
  load=$!
  kubectl rollout restart deployment/my-deployment && kubectl rollout status deployment/my-deployment --timeout=60s
  local rolled=$? lost
  rm "$going"
  wait "$load"
  lost=$(wc -l <"$failed")
  rm "$failed"
  kubectl get replicasets -l app=my-deployment
  [ "$rolled" = 0 ] && [ "$lost" = 0 ]
}
check_that "every request was answered" "kubectl rollout restart deployment/my-deployment" unnoticed

title "external-database: no selector, endpoints written by hand"
check "applied" kubectl apply -f examples/external-database.yaml
from_pod "reached through the Service from a Pod" --retry 5 http://external-database/
refused() {
  local answer
  answer=$(kubectl apply -f examples/wrong-endpoints.yaml 2>&1) && { echo "$answer"; return 1; }
  echo "$answer"
  grep -q 10.96.0.10 <<<"$answer" && grep -q 127.0.0.1 <<<"$answer" && grep -q 169.254.1.1 <<<"$answer"
}
check_that "endpoints that name a ClusterIP, loopback or link-local address are refused" \
  "kubectl apply -f examples/wrong-endpoints.yaml" refused

title "my-node-port: from outside the cluster, through any node"
check "applied" kubectl apply -f examples/node-port.yaml
for node in node1 node2 node3; do
  addr=$(kubectl get node "$node" -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}')
  from_host "reached from the outside client through $node" client --retry 5 "http://$addr:30080/"
done

title "my-load-balancer: an address of the nodes' own network"
check "applied" kubectl apply -f examples/load-balancer.yaml
check "it gets an address" kubectl wait --for=jsonpath='{.status.loadBalancer.ingress[0].ip}' service/my-load-balancer --timeout=10s
vip=$(kubectl get service my-load-balancer -o jsonpath='{.status.loadBalancer.ingress[0].ip}')
from_host "reached from the outside client by that address" client --retry 5 "http://$vip/"
answering() { kubectl get service my-load-balancer -o jsonpath='{.metadata.annotations.minik\.dev/announced-by}' | sed 's/.*=//'; }
first=$(answering)
check "the node that answers is lost: $first" "$minik" lab partition "$first"
taken_over() {
  for _ in {1..50}; do
    [ "$(answering)" != "$first" ] && break
    sleep 0.1
  done
  "$minik" lab exec client -- "$minik" fetch --retry 5 "http://$vip/"
}
check_that "another node answers" "$minik lab exec client -- $minik fetch --retry 5 http://$vip/" taken_over
check "it is back" "$minik" lab heal "$first"

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
