#!/usr/bin/env bash
# 35 scenarios with redis-cli against a private server: 20 that every version of the module must pass, and 15 for what
# the README and the tutorial promise. A failed scenario does not stop the others.
# Usage: [SERVER=path] scripts/test_all_modules.sh
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

passed=0 failed=0

# expect NAME PATTERN REPLY: one scenario, which passes if the whole reply matches the pattern.
expect() {
  # shellcheck disable=SC2053 # The right-hand side is a pattern.
  if [[ $3 == $2 ]]; then
    passed=$((passed + 1))
    say "  ${green}PASS${plain}  $1"
  else
    failed=$((failed + 1))
    say "  ${red}FAIL${plain}  $1"
    say "        expected: $2"
    say "        got:      $3"
  fi
}

# ask COMMAND...: prints the reply in one line, with its type as in redis-cli: LOAD, "a string", (integer) 1, (nil).
# If the server is gone, the reply is the error of redis-cli.
ask() { { cli --no-raw "$@" 2>&1 || true; } | tr -s ' \n' ' ' | sed 's/ $//'; }

# token_of REPLY: the fencing token, or the token of a load, at the end of a reply.
token_of() { say "${1##*(integer) }"; }

# consume QUEUE [OPTION...]: prints the payloads of the tasks that it gets, or "nothing". An error is printed as it is.
consume() {
  local reply payloads
  reply=$(cli TASK.CONSUME workers worker "$@" META 2>&1) || true
  payloads=$(sed -n '/^payload$/{n;p;}' <<<"$reply" | tr '\n' ' ')
  payloads=${payloads% }
  say "${payloads:-${reply:-nothing}}"
}

# count_lines LINE FILE...: prints how many lines of the files are LINE.
count_lines() { LINE=$1 awk '$0 == ENVIRON["LINE"] { count++ } END { print count + 0 }' "${@:2}"; }

# fail_task QUEUE [OPTION...]: reports that the leased task has failed.
fail_task() {
  local task
  task=$(cli XPENDING "$1" workers - + 1 2>&1 | sed -n 1p || true)
  ask TASK.NACK "$1" workers worker FAIL "$task" "${@:2}"
}

# in_background COMMAND...: runs a client of its own. await_clients waits until all of them have ended.
clients=()
in_background() {
  "$@" &
  clients+=($!)
}
await_clients() {
  wait "${clients[@]}" || true
  clients=()
}

# await_waiting COUNT: waits until so many clients wait on the server. After 10 seconds the scenario continues, and fails.
await_waiting() { eventually 10 clients_wait "$1" || true; }
clients_wait() { [[ $(cli INFO clients 2>&1) == *blocked_clients:"$1"[!0-9]* ]]; }

# record COMMAND...: adds the output of the command to the replies of the next expect_recorded.
recorded=''
record() { recorded+=${recorded:+, }$("$@"); }
expect_recorded() {
  expect "$1" "$2" "$recorded"
  recorded=''
}

yes='(integer) 1'
no='(integer) 0'
id='"[0-9]*-[0-9]*"'

start_server
say "$("$server" --version)"

say "${bold}Cache${plain}"
expect "CACHE.LOCK acquires the lock" LOAD "$(ask CACHE.LOCK test:page 60000 5000)"
expect "CACHE.SET writes the value" OK "$(ask CACHE.SET test:page 'the page' 60000)"
expect "CACHE.GET reads the value" '"the page"' "$(ask CACHE.GET test:page)"
expect "CACHE.LOCK acquires again after CACHE.SET" LOAD "$(ask CACHE.LOCK test:page 60000 5000)"
expect "CACHE.GET of a missing key is nil" '(nil)' "$(ask CACHE.GET test:missing)"

say "${bold}Task${plain}"
expect "XGROUP CREATE with MKSTREAM creates the queue" OK "$(ask XGROUP CREATE test:tasks workers 0 MKSTREAM)"
first=$(ask TASK.PUBLISH test:tasks task-1)
second=$(ask TASK.PUBLISH test:tasks task-2)
third=$(ask TASK.PUBLISH test:tasks task-3)
expect "TASK.PUBLISH adds a first task" "$id" "$first"
expect "TASK.PUBLISH adds a second task" "$id" "$second"
expect "TASK.PUBLISH adds a third task" "$id" "$third"
fields='?) "timestamp" ?) "[0-9]*" ?) "retry_count" ?) "0"'
expect "TASK.CONSUME delivers the first two" \
  "1) 1) \"test:tasks\" 2) 1) 1) $first 2) 1) \"payload\" 2) \"task-1\" $fields 2) 1) $second 2) 1) \"payload\" 2) \"task-2\" $fields" \
  "$(ask TASK.CONSUME workers worker-1 test:tasks 2 1000)"
expect "XLEN counts three tasks" '(integer) 3' "$(ask XLEN test:tasks)"

say "${bold}Lock${plain}"
expect "LOCK.ACQUIRE by process1 is granted" "$yes" "$(ask LOCK.ACQUIRE test:batch process1 30000)"
expect "LOCK.ACQUIRE by process2 is refused" "$no" "$(ask LOCK.ACQUIRE test:batch process2 30000)"
expect "LOCK.EXTEND by process1 is granted" "$yes" "$(ask LOCK.EXTEND test:batch process1 60000)"
expect "LOCK.EXTEND by process2 is refused" "$no" "$(ask LOCK.EXTEND test:batch process2 60000)"
expect "LOCK.RELEASE by process1 releases" "$yes" "$(ask LOCK.RELEASE test:batch process1)"
expect "LOCK.ACQUIRE by process2 is granted after the release" "$yes" "$(ask LOCK.ACQUIRE test:batch process2 30000)"
expect "LOCK.RELEASE by process2 releases" "$yes" "$(ask LOCK.RELEASE test:batch process2)"

say "${bold}Cache: single-flight, late loads, stale values and failed loads${plain}"
fetch() { say "$(ask CACHE.FETCH test:hot 60000 BLOCK 10000)" >"$workdir/fetch.$1"; }
for client in {1..20}; do in_background fetch "$client"; done
await_waiting 19
loader=$(grep -h '^1) LOAD' "$workdir"/fetch.* || true)
record say "$loader"
record ask CACHE.SET test:hot 'the page' 60000 TOKEN "$(token_of "$loader")"
await_clients
record count_lines '1) HIT 2) "the page" 3) (nil)' "$workdir"/fetch.*
expect_recorded "Of 20 clients that miss, one loads the value and the others get it" \
  '1) LOAD 2) (nil) 3) (integer) [0-9]*, OK, 19'

late=$(token_of "$(ask CACHE.FETCH test:late 1)")
newer=$(token_of "$(ask CACHE.FETCH test:late 60000 BLOCK 10000)")
record ask CACHE.SET test:late late 60000 TOKEN "$late"
record ask CACHE.GET test:late
record ask CACHE.SET test:late newer 60000 TOKEN "$newer"
record ask CACHE.SET test:late late 60000 TOKEN "$late"
record ask CACHE.GET test:late
expect_recorded "A late load is stored, but does not replace a newer value" 'OK, "late", OK, (nil), "newer"'

record ask CACHE.SET test:stale 'old page' 60000
record ask CACHE.FETCH test:stale 60000 STALE 120000
record ask CACHE.FETCH test:stale 60000 STALE 120000
expect_recorded "A stale value is returned while one client refreshes it" \
  'OK, 1) LOAD 2) "old page" 3) (integer) [0-9]*, 1) STALE 2) "old page" 3) (nil)'

token=$(token_of "$(ask CACHE.FETCH test:failed 60000)")
record ask CACHE.FAIL test:failed "$token" BACKOFF 60000 REASON 'database down'
record ask CACHE.FETCH test:failed 60000
expect_recorded "After a failed load, clients get the reason until the back-off ends" \
  "$yes, 1) FAIL 2) \"database down\" 3) (nil)"

say "${bold}Task: leases, retries, dead letters and order of delivery${plain}"
record ask TASK.POLICY test:crash LEASE 1000
record ask TASK.PUBLISH test:crash job
# This client ends without an acknowledgement, as if it had crashed.
record ask TASK.CONSUME workers crashed test:crash META
record ask TASK.CONSUME workers worker test:crash BLOCK 10000 META
# The numbers are the time since the delivery before, here at least 1000, and how often the task was delivered.
task="1) 1) $id 2) 1) \"payload\" 2) \"job\" $fields"
expect_recorded "The task of a crashed worker is delivered again when its lease expires" \
  "OK, $id, $task 3) $no 4) $yes, $task 3) (integer) [1-9][0-9][0-9][0-9]* 4) (integer) 2"

record ask TASK.PUBLISH test:retry job
record consume test:retry
record fail_task test:retry DELAY 2000
record consume test:retry
record consume test:retry BLOCK 10000
expect_recorded "A failed task is delivered again after its back-off" "$id, job, $yes, nothing, job"

record ask TASK.POLICY test:dead TRIES 2
record ask TASK.PUBLISH test:dead job
record consume test:dead
record fail_task test:dead DELAY 0
record consume test:dead
record fail_task test:dead REASON 'no such address'
record ask XRANGE 'dead:{test:dead}' - +
record ask TASK.REDRIVE 'dead:{test:dead}' test:dead
record consume test:dead
expect_recorded "After its last try a task is a dead letter, which can be redriven" \
  "OK, $id, job, $yes, job, (integer) 2, 1) 1) $id *\"reason\" *\"no such address\"*, $yes, job"

record ask TASK.PUBLISH test:delayed job DELAY 2000
record consume test:delayed
record consume test:delayed BLOCK 10000
expect_recorded "A delayed task is delivered when it is due" "$id, nothing, job"

record ask TASK.PUBLISH test:priority normal
record ask TASK.PUBLISH test:priority high PRIORITY 9
record consume test:priority COUNT 10
expect_recorded "A task of a higher priority is delivered first" "$id, $id, high normal"

task=$(ask TASK.PUBLISH test:unique job UNIQUE welcome 60000)
record say "$task"
record ask TASK.PUBLISH test:unique job UNIQUE welcome 60000
record consume test:unique COUNT 10
expect_recorded "A task that is published twice with UNIQUE is in the queue once" "$id, $task, job"

record ask TASK.POLICY test:paused PAUSED 1
record ask TASK.PUBLISH test:paused job
record consume test:paused
record ask TASK.POLICY test:paused PAUSED 0
record consume test:paused
expect_recorded "A paused queue delivers nothing until it is resumed" "OK, $id, nothing, OK, job"

say "${bold}Lock: hand-over, fencing tokens, shared holders and expired leases${plain}"
take_turn() {
  ask LOCK.ACQUIRE test:line "$1" 30000 BLOCK 10000
  ask RPUSH test:turns "$1"
  ask LOCK.RELEASE test:line "$1"
} >/dev/null
record ask LOCK.ACQUIRE test:line process0 30000
for client in 1 2 3; do
  in_background take_turn "process$client"
  await_waiting "$client"
done
record ask LOCK.RELEASE test:line process0
await_clients
record ask LRANGE test:turns 0 -1
expect_recorded "A released lock is handed over to the waiting clients in FIFO order" \
  "$yes, $yes, 1) \"process1\" 2) \"process2\" 3) \"process3\""

first=$(ask LOCK.ACQUIRE test:fence process1 30000 FENCE)
record say "$first"
record ask LOCK.RELEASE test:fence process1
second=$(ask LOCK.ACQUIRE test:fence process2 30000 FENCE)
record say "$second"
# The tokens have the same number of digits.
if [[ $second > $first ]]; then record say rises; else record say falls; fi
expect_recorded "The fencing token rises with every grant" "(integer) [0-9]*, $yes, (integer) [0-9]*, rises"

record ask LOCK.ACQUIRE test:shared reader1 30000 SHARED
record ask LOCK.ACQUIRE test:shared reader2 30000 SHARED
record ask LOCK.ACQUIRE test:shared writer 30000
record ask LOCK.ACQUIRE test:limit process1 30000 LIMIT 2
record ask LOCK.ACQUIRE test:limit process2 30000 LIMIT 2
record ask LOCK.ACQUIRE test:limit process3 30000 LIMIT 2
expect_recorded "Readers share a lock, and a LIMIT 2 lock has two holders" "$yes, $yes, $no, $yes, $yes, $no"

record ask LOCK.ACQUIRE test:expired process1 1
record ask LOCK.ACQUIRE test:expired process2 60000 BLOCK 10000
record ask LOCK.EXTEND test:expired process1 60000
record ask LOCK.EXTEND test:expired process2 60000
expect_recorded "After its lease has expired, a holder cannot extend it" "$yes, $yes, $no, $yes"

say "${bold}Module${plain}"
commands='cache.get cache.lock cache.set lock.acquire lock.extend lock.release task.ack task.consume task.publish task.retry'
listed=$({ cli COMMAND LIST FILTERBY MODULE corral || true; } | tr '[:upper:]' '[:lower:]')
missing=''
for command in $commands; do
  [[ $'\n'$listed$'\n' == *$'\n'$command$'\n'* ]] || missing+=" $command"
done
expect "The module is loaded with all its commands" "none missing" "none missing$missing"
expect "The server is still running" "PONG from process $server_pid" \
  "$(ask PING) from process $(cli INFO server | tr -d '\r' | sed -n 's/^process_id://p')"

say ""
say "$passed passed, $failed failed"
((failed == 0))
