#!/usr/bin/env bash
# The three problems and their end, live in the terminal, with redis-cli against a server of its own.
# Usage: [SERVER=path] [PAUSE=seconds] scripts/demo.sh
# PAUSE is the time to read between the steps: 1 in a terminal, else 0. Fails if an outcome is not what is claimed.
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
    say "  ${red}$1: $3, and it should be $2${plain}"
  fi
}
# What the processes of the demo count is kept on the server.
count() { cli INCR "demo:$1" >/dev/null; }
counted() { cli --raw GET "demo:$1" | sed 's/^$/0/'; }
has_counted() { (($(counted "$1") >= $2)); }

# --- 1. A hundred clients ask for a page that nobody has cached ---------------------------------------------------

clients=100
page='<html>the page</html>'

# The query takes half a second and is counted: it is what the cache is there to spare.
query_database() {
  count "$1:loads"
  sleep 0.5
}

# Both kinds of client take the way's name, under which they count, and print the page.
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
  # Three lines: what to do, the value, and the token of whoever loads.
  answer=$(cli CACHE.FETCH "$1:page" 10000 BLOCK 10000)
  { read -r status && read -r value && read -r token; } <<<"$answer"$'\n\n'
  if [[ $status == LOAD ]]; then
    query_database "$1"
    cli CACHE.SET "$1:page" "$page" 60000 TOKEN "$token" >/dev/null
    value=$page
  fi
  say "$value"
}

# stampede WAY CLIENT: all clients stand at a gate, a list on which they wait, until the last one has come.
stampede() {
  local way=$1 client=$2 pids=() i
  for ((i = 0; i < clients; i++)); do
    {
      count "$way:ready"
      cli BLPOP "$way:gate" 30 >/dev/null
      if [[ $("$client" "$way") == "$page" ]]; then count "$way:served"; fi
    } &
    pids+=($!)
  done
  eventually 30 has_counted "$way:ready" "$clients" || die "the clients did not start"
  # shellcheck disable=SC2046 # One word for each client.
  cli RPUSH "$way:gate" $(seq "$clients") >/dev/null
  wait "${pids[@]}"
}

cache_demo() {
  chapter "1. $clients clients want a page at once, and the cache is empty"
  step "Plain GET and SET: who finds nothing queries the database."
  stampede plain plain_client
  step "${red}database queries: $(counted plain:loads)${plain}"
  step "CACHE.FETCH … BLOCK: one is told LOAD, everybody else waits on the server and gets the page."
  stampede corral corral_client
  outcome "database queries" 1 "$(counted corral:loads)"
  outcome "clients that got the page" "$clients" "$(counted corral:served)"
  has_counted plain:loads 2 || die "the plain clients did not show the problem"
}

# --- 2. A batch job is due, and two processes want to run it --------------------------------------------------------

batch_process() {
  local me="$1-$RANDOM$RANDOM" granted
  granted=$(cli LOCK.ACQUIRE nightly-batch "$me" 30000)
  count asked
  say "  $1: LOCK.ACQUIRE nightly-batch → $granted"
  if [[ $granted == 1 ]]; then
    count runs
    # The job lasts until the other process has asked too.
    eventually 10 has_counted asked 2
    say "  $1: the batch is done, LOCK.RELEASE → $(cli LOCK.RELEASE nightly-batch "$me")"
  else
    count aside
    say "  $1: somebody else runs it, I step aside"
  fi
}

somebody_waits() { [[ $(cli INFO corral) == *corral_lock_waiters:1* ]]; }

waiting_process() {
  local me="process C-$RANDOM$RANDOM" fence
  fence=$(cli LOCK.ACQUIRE nightly-batch "$me" 30000 BLOCK 10000 FENCE)
  if ((fence > 0)); then
    count later
    say "  process C: it is my turn, and my fencing token is $fence"
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
  outcome "processes that stepped aside" 1 "$(counted aside)"
  outcome "the lock is free again, LOCK.ACQUIRE" 1 "$(cli LOCK.ACQUIRE nightly-batch tomorrow 30000)"
  step "Whoever has to run, though later, waits in line: no polling, first come, first served."
  waiting_process &
  first=$!
  eventually 10 somebody_waits || die "nobody waits for the lock"
  say "  the holder releases → $(cli LOCK.RELEASE nightly-batch tomorrow)"
  wait "$first"
  outcome "the waiting process ran" 1 "$(counted later)"
}

# --- 3. A worker dies at its work, and a task always fails ----------------------------------------------------------

# consume CONSUMER: waits for a task, and takes it apart: id, payload and deliveries, and nothing if none comes.
consume() {
  local reply
  reply=$(cli --raw TASK.CONSUME workers "$1" mail BLOCK 10000 META)
  # Lines: the id, fields and values of which the first is "payload", the last lease in ms, deliveries.
  id=$(sed -n 1p <<<"$reply")
  payload=$(sed -n 3p <<<"$reply")
  deliveries=$(tail -n 1 <<<"$reply")
}

# Takes a task, and would work on it for a minute.
doomed_worker() {
  consume worker-1
  count begun
  sleep 60
}

tasks_left() { say $(($(cli XLEN mail) + $(cli XLEN 'priority9:{mail}') + $(cli ZCARD 'delayed:{mail}'))); }

crash_demo() {
  local worker id payload deliveries
  chapter "3. A worker is killed in the middle of its work"
  step "TASK.POLICY mail LEASE 2000 → $(cli TASK.POLICY mail LEASE 2000)"
  step "TASK.PUBLISH mail 'to: ann' → $(cli TASK.PUBLISH mail 'to: ann')"
  # In a group of its own, so that what it has started dies with it.
  set -m
  doomed_worker &
  worker=$!
  set +m
  eventually 10 has_counted begun 1 || die "the worker did not begin"
  step "worker 1 has it, and is killed: kill -9"
  kill -9 -- -"$worker"
  wait "$worker" 2>/dev/null || true
  consume worker-2
  outcome "worker 2 waits, and has it when the lease is over" "to: ann" "$payload"
  outcome "deliveries" 2 "$deliveries"
  cli TASK.ACK mail workers "$id" >/dev/null
  outcome "tasks that are left" 0 "$(tasks_left)"
}

task_demo() {
  local id payload deliveries order='' attempts=0 fate=1
  chapter "4. An urgent task, one for later, and one whose work always fails"
  step "TASK.PUBLISH mail eve DELAY 1000 → $(cli TASK.PUBLISH mail eve DELAY 1000)"
  step "TASK.PUBLISH mail dan → $(cli TASK.PUBLISH mail dan)"
  step "TASK.PUBLISH mail kim PRIORITY 9 → $(cli TASK.PUBLISH mail kim PRIORITY 9)"
  for _ in 1 2 3; do
    consume worker-2
    cli TASK.ACK mail workers "$id" >/dev/null
    order+="$payload "
  done
  outcome "the order in which they come" "kim dan eve " "$order"
  step "TASK.POLICY mail TRIES 3 → $(cli TASK.POLICY mail TRIES 3)"
  step "TASK.PUBLISH mail nobody → $(cli TASK.PUBLISH mail nobody)"
  while ((fate == 1)); do
    consume worker-2
    attempts=$((attempts + 1))
    fate=$(cli TASK.NACK mail workers worker-2 FAIL "$id" DELAY 200 REASON "no such address")
    step "attempt $attempts fails: TASK.NACK … FAIL → $fate"
  done
  outcome "attempts" 3 "$attempts"
  step "XRANGE dead:{mail} - +"
  cli --no-raw XRANGE 'dead:{mail}' - + | sed 's/^/    /'
  step "The address is corrected: TASK.REDRIVE dead:{mail} mail → $(cli TASK.REDRIVE 'dead:{mail}' mail)"
  consume worker-2
  cli TASK.ACK mail workers "$id" >/dev/null
  outcome "the task that is done at last" nobody "$payload"
  outcome "tasks that are left, and dead letters" "0 0" "$(tasks_left) $(cli XLEN 'dead:{mail}')"
}

start_server
say "${dim}$("$server" --version), with $module${plain}"
cache_demo
lock_demo
crash_demo
task_demo
say ""
((wrong == 0)) || die "$wrong outcomes are not what they should be"
say "${green}${bold}Every outcome is as it should be.${plain}"
