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

# --- 3. A task fails, again and again -------------------------------------------------------------------------------

task_demo() {
  local dead='dead:{mail}' attempts=0 id payload retries
  chapter "3. A task whose work always fails"
  step "TASK.PUBLISH mail 'to: nobody@example.org' → $(cli TASK.PUBLISH mail 'to: nobody@example.org')"
  # At most ten attempts, should it never end.
  while ((attempts < 10)); do
    # Lines: stream, id, "payload", its value, "timestamp", its value, "retry_count", its value.
    { read -r _; read -r id; read -r _; read -r payload; read -r _; read -r _; read -r _; read -r retries; } \
      < <(cli --raw TASK.CONSUME workers w1 mail 1 100) || break
    attempts=$((attempts + 1))
    step "attempt $attempts with retry_count $retries fails; TASK.RETRY, at most 3 times →" \
      "$(cli TASK.RETRY mail "$id" "$payload" "$retries" mail "$dead" 3 workers)"
  done
  outcome "attempts" 4 "$attempts"
  outcome "tasks that are still with a worker" 0 "$(cli --raw XPENDING mail workers | head -n 1)"
  outcome "tasks in the dead letters" 1 "$(cli XLEN "$dead")"
  step "XRANGE $dead - +"
  cli --no-raw XRANGE "$dead" - + | sed 's/^/    /'
}

start_server
say "${dim}$("$server" --version), with $module${plain}"
cache_demo
lock_demo
task_demo
say ""
((wrong == 0)) || die "$wrong outcomes are not what they should be"
say "${green}${bold}Every outcome is as it should be.${plain}"
