#!/usr/bin/env bash
# Shows four problems, first without Corral and then with it, with redis-cli against a private server.
# Usage: [SERVER=path] [PAUSE=seconds] scripts/demo.sh
# PAUSE is the pause between the steps (default: 0.6 in a terminal, otherwise 0). Fails if an outcome is not as claimed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

pause=0
[[ ! -t 1 ]] || pause=0.6
pause=${PAUSE:-$pause}
wrong=0

chapters=(
  "Cache: 100 clients request a page that is not cached"
  "Lock: five processes wait for the same lock"
  "Task: a worker is killed while it works on a task"
  "Task: one task always fails, one is urgent, and one is due later"
)
announce() {
  local i
  say "${bold}Four problems, each first without Corral and then with it${plain}"
  for i in 1 2 3 4; do say "  $i. ${chapters[i - 1]}"; done
}
# chapter NUMBER
chapter() {
  say ""
  say "${bold}$1 of 4. ${chapters[$1 - 1]}${plain}"
}
step() {
  sleep "$pause"
  say "  $*"
}
without() { step "${bold}Without Corral:${plain} $*"; }
with_corral() { step "${bold}With Corral:${plain} $*"; }
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
# figure WHAT WITHOUT WITH: the result of a chapter.
figure() { step "${bold}$1: $2 without Corral, $3 with it${plain}"; }
# The processes of the demo keep their counters on the server.
count() { cli INCR "demo:$1" >/dev/null; }
counted() { cli --raw GET "demo:$1" | sed 's/^$/0/'; }
has_counted() { (($(counted "$1") >= $2)); }

# --- 1. Cache ------------------------------------------------------------------------------------------------------

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
  chapter 1
  without "GET and SET. Each client that misses queries the database."
  stampede plain plain_client
  has_counted plain:loads 2 || die "the plain clients did not show the problem"
  with_corral "CACHE.FETCH … BLOCK. One client gets LOAD, the others wait on the server and get the page."
  stampede corral corral_client
  outcome "database queries" 1 "$(counted corral:loads)"
  outcome "clients that got the page" "$clients" "$(counted corral:served)"
  figure "database queries" "$(counted plain:loads)" "$(counted corral:loads)"
}

# --- 2. Lock -------------------------------------------------------------------------------------------------------

# The times of grants and releases are the server's TIME, which is read after a grant and in the transaction of a
# release. microseconds makes one number of the two lines of TIME.
microseconds() { awk '{ us = us * 1000000 + $1 } END { printf "%.0f", us }'; }
timed_release() { printf '%s\n' MULTI TIME "$1" EXEC | cli | sed -n 4,5p | microseconds; }

# acquire_*: waits for the lock and prints the time of the grant and the fencing token. release_*: prints the time.
acquire_plain() {
  local reply
  until
    reply=$(printf '%s\n' "SET plain:lock $1 NX PX 30000" TIME | cli)
    [[ $reply == OK* ]]
  do
    count "plain:attempts:$1"
    sleep 0.1
  done
  say "$(sed -n 2,3p <<<"$reply" | microseconds) none"
}
release_plain() {
  # A correct release needs a script, which deletes the lock only if this process still holds it.
  local script="return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1])"
  timed_release "EVAL \"$script\" 1 plain:lock $1"
}
waits_plain() { has_counted "plain:attempts:process-$1" 1; }

acquire_corral() {
  local reply
  reply=$(printf '%s\n' "LOCK.ACQUIRE batch $1 30000 BLOCK 30000 FENCE" TIME | cli)
  say "$(sed -n 2,3p <<<"$reply" | microseconds) $(sed -n 1p <<<"$reply")"
}
release_corral() { timed_release "LOCK.RELEASE batch $1"; }
waits_corral() { [[ $(cli INFO clients) == *blocked_clients:"$1"[!0-9]* ]]; }

# one_turn KIND NUMBER: a process works for 0.2 s under the lock, and logs when it got and released the lock.
one_turn() {
  local granted token
  read -r granted token <<<"$("acquire_$1" "process-$2")"
  sleep 0.2
  say "$granted $("release_$1" "process-$2") $2 $token" >>"$workdir/$1.turns"
}

# take_turns KIND: five processes start one after the other, while process 0 holds the lock.
take_turns() {
  local pids=() i
  "acquire_$1" process-0 >/dev/null
  for i in 1 2 3 4 5; do
    one_turn "$1" "$i" &
    pids+=($!)
    eventually 10 "waits_$1" "$i" || die "process $i does not wait for the lock"
  done
  say "0 $("release_$1" process-0) 0 0" >"$workdir/$1.turns"
  wait "${pids[@]}"
}
turns() { sort -n "$workdir/$1.turns" | sed 1d; }
order_of() { turns "$1" | awk '{ printf "%s%s", space, $3; space = " " }'; }
overlaps() { sort -n "$workdir/$1.turns" | awk '$1 && $1 < released { n++ } { released = $2 } END { print n + 0 }'; }
# The median of the five times from a release to the next grant.
handover() {
  sort -n "$workdir/$1.turns" | awk '$1 { print $1 - released } { released = $2 }' | sort -n | sed -n 3p |
    awk '{ printf "%.1f ms", $1 / 1000 }'
}
tokens_rise() { turns corral | awk '{ print $4 }' | sort -n -u -c; }

lock_demo() {
  chapter 2
  without "SET … NX. The waiting processes poll, here ten times a second, and chance decides who is next."
  take_turns plain
  step "the processes started in the order 1 2 3 4 5, and got the lock in the order $(order_of plain)"
  with_corral "LOCK.ACQUIRE … BLOCK FENCE. The processes wait on the server in a FIFO queue."
  take_turns corral
  outcome "the order of the grants" "1 2 3 4 5" "$(order_of corral)"
  outcome "grants while another process holds the lock" 0 "$(overlaps corral)"
  outcome "the fencing token rises with every grant" yes "$(tokens_rise && say yes)"
  figure "from a release to the next grant (median)" "$(handover plain)" "$(handover corral)"
}

# --- 3. A worker is killed -----------------------------------------------------------------------------------------

# consume CONSUMER: waits for a task and sets id, payload, lease and deliveries, to nothing if the wait times out.
consume() {
  local reply
  reply=$(cli --raw TASK.CONSUME workers "$1" mail BLOCK 10000 META)
  # Lines: the id, the fields and values ("payload" first), the length of the last lease in ms, the deliveries.
  id=$(sed -n 1p <<<"$reply")
  payload=$(sed -n 3p <<<"$reply")
  lease=$(tail -n 2 <<<"$reply" | sed -n 1p)
  deliveries=$(tail -n 1 <<<"$reply")
}

# Two workers that take a task and work on it for a minute, unless they are killed.
plain_worker() {
  cli BLPOP plain:mail 10 >/dev/null
  count plain:started
  sleep 60
}
corral_worker() {
  consume worker-1
  count corral:started
  sleep 60
}

# kill_working KIND: starts a worker, and kills it when it has a task.
kill_working() {
  local worker
  # In its own process group, so that its child processes are killed with it.
  set -m
  "$1_worker" &
  worker=$!
  set +m
  eventually 10 has_counted "$1:started" 1 || die "the worker did not start"
  step "worker 1 has the task 'to: ann' and is killed with kill -9"
  kill -9 -- -"$worker"
  wait "$worker" 2>/dev/null || true
}

tasks_left() { say $(($(cli XLEN mail) + $(cli XLEN 'priority9:{mail}') + $(cli ZCARD 'delayed:{mail}'))); }

crash_demo() {
  local id payload lease deliveries list=0 queue=0 again=0
  chapter 3
  without "a list. BLPOP removes a task from it before the work begins."
  cli RPUSH plain:mail 'to: ann' 'to: bob' 'to: cid' >/dev/null
  kill_working plain
  while [[ -n $(cli LPOP plain:mail) ]]; do list=$((list + 1)); done
  step "worker 2 does all tasks that it finds: $list of 3"
  with_corral "TASK.CONSUME leases a task, here for 2 seconds. The task stays in the queue until TASK.ACK."
  step "TASK.POLICY mail LEASE 2000 → $(cli TASK.POLICY mail LEASE 2000)"
  sleep "$pause"
  for payload in 'to: ann' 'to: bob' 'to: cid'; do
    say "  TASK.PUBLISH mail '$payload' → $(cli TASK.PUBLISH mail "$payload")"
  done
  kill_working corral
  while ((queue < 3)); do
    consume worker-2
    [[ -n $id ]] || break
    if [[ $payload == 'to: ann' ]]; then
      again=$deliveries
      step "worker 2 gets 'to: ann' $lease ms after worker 1 got it"
    fi
    queue=$((queue + $(cli TASK.ACK mail workers "$id")))
  done
  outcome "deliveries of 'to: ann'" 2 "$again"
  outcome "tasks that were done" 3 "$queue"
  outcome "tasks that remain" 0 "$(tasks_left)"
  figure "tasks that were done" "$list of 3" "$queue of 3"
}

# --- 4. Failure and order ------------------------------------------------------------------------------------------

# Works for up to two seconds on a list in which one task always fails. It puts the task back each time.
retry_forever() {
  local end=$((SECONDS + 2))
  while ((SECONDS < end)); do
    [[ $(cli LMOVE plain:mail plain:mail LEFT RIGHT) == nobody ]] || die "the list has lost its task"
    tries=$((tries + 1))
  done
}

failure_demo() {
  local id payload lease deliveries list='' queue='' tries=0 attempts=0 outcome=1
  chapter 4
  without "a list. A worker puts a failed task back, and tasks are served in the order in which they were added."
  cli RPUSH plain:mail nobody >/dev/null
  retry_forever
  step "attempts within two seconds: $tries, and the task is still in the list"
  cli DEL plain:mail >/dev/null
  cli RPUSH plain:mail eve dan kim >/dev/null
  for _ in 1 2 3; do list+="${list:+ }$(cli LPOP plain:mail)"; done
  step "eve is due later and kim is urgent, and the order is: $list"
  with_corral "TASK.NACK … FAIL, with back-off. After the last try the task moves to the dead-letter queue."
  step "TASK.POLICY mail TRIES 3 BACKOFF 500 1000 → $(cli TASK.POLICY mail TRIES 3 BACKOFF 500 1000)"
  step "TASK.PUBLISH mail nobody → $(cli TASK.PUBLISH mail nobody)"
  while ((outcome == 1)); do
    consume worker-2
    attempts=$((attempts + 1))
    outcome=$(cli TASK.NACK mail workers worker-2 FAIL "$id" REASON "no such address")
    step "attempt $attempts fails: TASK.NACK … FAIL → $outcome"
  done
  outcome "attempts" 3 "$attempts"
  outcome "dead letters" 1 "$(cli XLEN 'dead:{mail}')"
  step "the address is corrected: TASK.REDRIVE dead:{mail} mail → $(cli TASK.REDRIVE 'dead:{mail}' mail)"
  consume worker-2
  cli TASK.ACK mail workers "$id" >/dev/null
  outcome "the redriven task" nobody "$payload"
  step "TASK.PUBLISH mail eve DELAY 1500 → $(cli TASK.PUBLISH mail eve DELAY 1500)"
  say "  TASK.PUBLISH mail dan → $(cli TASK.PUBLISH mail dan)"
  say "  TASK.PUBLISH mail kim PRIORITY 9 → $(cli TASK.PUBLISH mail kim PRIORITY 9)"
  for _ in 1 2 3; do
    consume worker-2
    cli TASK.ACK mail workers "$id" >/dev/null
    queue+="${queue:+ }$payload"
  done
  outcome "the order of delivery" "kim dan eve" "$queue"
  outcome "tasks and dead letters that remain" "0 0" "$(tasks_left) $(cli XLEN 'dead:{mail}')"
  figure "attempts at the task that always fails" "$tries in two seconds" "$attempts in all"
  figure "the order of delivery" "$list" "$queue"
}

what_next() {
  say ""
  say "${bold}What to try next${plain}"
  say "  make run              starts a server with the module, for redis-cli and your own programs"
  say "  docs/tutorial.md      all three families with redis-cli, in ten minutes"
  say "  docs/cache.md, docs/tasks.md, docs/locks.md"
  say "                        how to build with each family: model and recipes"
  say "  docs/performance.md   measurements, also compared with other libraries"
  say "  docs/operations.md    how to run it in production"
}

start_server
say "${dim}$("$server" --version), with $module${plain}"
announce
cache_demo
lock_demo
crash_demo
failure_demo
say ""
((wrong == 0)) || die "$wrong outcomes differ from the expected ones"
say "${green}${bold}All outcomes are as expected.${plain}"
what_next
