#!/usr/bin/env bash
# Shows the three problems and how Corral solves them, with redis-cli against a private server.
# Usage: [SERVER=path] [PAUSE=seconds] scripts/demo.sh
# PAUSE is the pause between the steps (default: 1 in a terminal, otherwise 0). Fails if an outcome is not as claimed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

pause=0
[[ ! -t 1 ]] || pause=1
pause=${PAUSE:-$pause}
wrong=0

chapter() {
  say ""
  say "${bold}$1${plain}"
}
step() {
  sleep "$pause"
  say "  $*"
}
# outcome WHAT EXPECTED ACTUAL
outcome() {
  sleep "$pause"
  if [[ $3 == "$2" ]]; then
    say "  ${green}$1: $3${plain}"
  else
    wrong=$((wrong + 1))
    say "  ${red}$1: $3, expected $2${plain}"
  fi
}
# The processes of the demo keep their counters on the server.
count() { cli INCR "demo:$1" >/dev/null; }
counted() { cli --raw GET "demo:$1" | sed 's/^$/0/'; }
has_counted() { (($(counted "$1") >= $2)); }

# --- 1. A hundred clients request a page that is not cached -------------------------------------------------------

clients=100
page='<html>the page</html>'

# The expensive query that the cache should save: it takes half a second and is counted.
query_database() {
  count "$1:loads"
  sleep 0.5
}

# Both kinds of client take the prefix of their keys and counters, and print the page.
plain_client() {
  local found
  found=$(cli GET "$1:page")
  if [[ -z $found ]]; then
    query_database "$1"
    cli SET "$1:page" "$page" PX 60000 >/dev/null
    found=$page
  fi
  say "$found"
}

corral_client() {
  local answer status value token
  # Three lines: the status, the value, and the token of the loader.
  answer=$(cli CACHE.FETCH "$1:page" 10000 BLOCK 10000)
  { read -r status && read -r value && read -r token; } <<<"$answer"$'\n\n'
  if [[ $status == LOAD ]]; then
    query_database "$1"
    cli CACHE.SET "$1:page" "$page" 60000 TOKEN "$token" >/dev/null
    value=$page
  fi
  say "$value"
}

# stampede PREFIX CLIENT: starts all clients at once. They wait on a list until the last client is ready.
stampede() {
  local prefix=$1 client=$2 pids=() i
  for ((i = 0; i < clients; i++)); do
    {
      count "$prefix:ready"
      cli BLPOP "$prefix:gate" 30 >/dev/null
      if [[ $("$client" "$prefix") == "$page" ]]; then count "$prefix:served"; fi
    } &
    pids+=($!)
  done
  eventually 30 has_counted "$prefix:ready" "$clients" || die "the clients did not start"
  # shellcheck disable=SC2046 # One word for each client.
  cli RPUSH "$prefix:gate" $(seq "$clients") >/dev/null
  wait "${pids[@]}"
}

cache_demo() {
  chapter "1. $clients clients request a page at once, and the cache is empty"
  step "Plain GET and SET: each client that misses queries the database."
  stampede plain plain_client
  step "${red}database queries: $(counted plain:loads)${plain}"
  step "CACHE.FETCH … BLOCK: one client gets LOAD, all others wait on the server and get the page."
  stampede corral corral_client
  outcome "database queries" 1 "$(counted corral:loads)"
  outcome "clients that got the page" "$clients" "$(counted corral:served)"
  has_counted plain:loads 2 || die "the plain clients did not show the problem"
}

# --- 2. Two processes try to run the same batch job -----------------------------------------------------------------

batch_process() {
  local me="$1-$RANDOM$RANDOM" granted
  granted=$(cli LOCK.ACQUIRE nightly-batch "$me" 30000)
  count asked
  say "  $1: LOCK.ACQUIRE nightly-batch → $granted"
  if [[ $granted == 1 ]]; then
    count runs
    # The job lasts until the other process has made its attempt.
    eventually 10 has_counted asked 2
    say "  $1: the batch has finished, LOCK.RELEASE → $(cli LOCK.RELEASE nightly-batch "$me")"
  else
    count skipped
    say "  $1: another process runs the batch, so this one skips it"
  fi
}

a_process_waits() { [[ $(cli INFO corral) == *corral_lock_waiters:1* ]]; }

waiting_process() {
  local me="process C-$RANDOM$RANDOM" fence
  fence=$(cli LOCK.ACQUIRE nightly-batch "$me" 30000 BLOCK 10000 FENCE)
  if ((fence > 0)); then
    count later
    say "  process C: granted, with fencing token $fence"
    cli LOCK.RELEASE nightly-batch "$me" >/dev/null
  fi
}

lock_demo() {
  local first second
  chapter "2. Two processes start the nightly batch at the same moment"
  sleep "$pause"
  batch_process "process A" &
  first=$!
  batch_process "process B" &
  second=$!
  wait "$first"
  wait "$second"
  outcome "runs of the batch" 1 "$(counted runs)"
  outcome "processes that skipped it" 1 "$(counted skipped)"
  outcome "LOCK.ACQUIRE after the release" 1 "$(cli LOCK.ACQUIRE nightly-batch tomorrow 30000)"
  step "A process that must run later waits on the server, without polling and in FIFO order."
  waiting_process &
  first=$!
  eventually 10 a_process_waits || die "no process waits for the lock"
  say "  the holder releases → $(cli LOCK.RELEASE nightly-batch tomorrow)"
  wait "$first"
  outcome "the waiting process ran" 1 "$(counted later)"
}

# --- 3. A worker crashes, and a task always fails -------------------------------------------------------------------

# consume CONSUMER: waits for a task and sets id, payload and deliveries, to nothing if the wait times out.
consume() {
  local reply
  reply=$(cli --raw TASK.CONSUME workers "$1" mail BLOCK 10000 META)
  # Lines: the id, the fields and values ("payload" first), the last lease in ms, the deliveries.
  id=$(sed -n 1p <<<"$reply")
  payload=$(sed -n 3p <<<"$reply")
  deliveries=$(tail -n 1 <<<"$reply")
}

# Takes a task and works on it for a minute, unless it is killed.
slow_worker() {
  consume worker-1
  count started
  sleep 60
}

tasks_left() { say $(($(cli XLEN mail) + $(cli XLEN 'priority9:{mail}') + $(cli ZCARD 'delayed:{mail}'))); }

crash_demo() {
  local worker id payload deliveries
  chapter "3. A worker is killed while it works on a task"
  step "TASK.POLICY mail LEASE 2000 → $(cli TASK.POLICY mail LEASE 2000)"
  step "TASK.PUBLISH mail 'to: ann' → $(cli TASK.PUBLISH mail 'to: ann')"
  # In its own process group, so that its child processes are killed with it.
  set -m
  slow_worker &
  worker=$!
  set +m
  eventually 10 has_counted started 1 || die "the worker did not start"
  step "worker 1 has the task and is killed with kill -9"
  kill -9 -- -"$worker"
  wait "$worker" 2>/dev/null || true
  consume worker-2
  outcome "worker 2 waits, and gets the task when the lease expires" "to: ann" "$payload"
  outcome "deliveries" 2 "$deliveries"
  cli TASK.ACK mail workers "$id" >/dev/null
  outcome "remaining tasks" 0 "$(tasks_left)"
}

task_demo() {
  local id payload deliveries order='' attempts=0 outcome=1
  chapter "4. A high-priority task, a delayed task, and a task that always fails"
  step "TASK.PUBLISH mail eve DELAY 1000 → $(cli TASK.PUBLISH mail eve DELAY 1000)"
  step "TASK.PUBLISH mail dan → $(cli TASK.PUBLISH mail dan)"
  step "TASK.PUBLISH mail kim PRIORITY 9 → $(cli TASK.PUBLISH mail kim PRIORITY 9)"
  for _ in 1 2 3; do
    consume worker-2
    cli TASK.ACK mail workers "$id" >/dev/null
    order+="$payload "
  done
  outcome "the order of delivery" "kim dan eve " "$order"
  step "TASK.POLICY mail TRIES 3 → $(cli TASK.POLICY mail TRIES 3)"
  step "TASK.PUBLISH mail nobody → $(cli TASK.PUBLISH mail nobody)"
  while ((outcome == 1)); do
    consume worker-2
    attempts=$((attempts + 1))
    outcome=$(cli TASK.NACK mail workers worker-2 FAIL "$id" DELAY 200 REASON "no such address")
    step "attempt $attempts fails: TASK.NACK … FAIL → $outcome"
  done
  outcome "attempts" 3 "$attempts"
  step "XRANGE dead:{mail} - +"
  cli --no-raw XRANGE 'dead:{mail}' - + | sed 's/^/    /'
  step "After the address is corrected: TASK.REDRIVE dead:{mail} mail → $(cli TASK.REDRIVE 'dead:{mail}' mail)"
  consume worker-2
  cli TASK.ACK mail workers "$id" >/dev/null
  outcome "the redriven task" nobody "$payload"
  outcome "remaining tasks and dead letters" "0 0" "$(tasks_left) $(cli XLEN 'dead:{mail}')"
}

start_server
say "${dim}$("$server" --version), with $module${plain}"
cache_demo
lock_demo
crash_demo
task_demo
say ""
((wrong == 0)) || die "$wrong outcomes differ from the expected ones"
say "${green}${bold}All outcomes are as expected.${plain}"
