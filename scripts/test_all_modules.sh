#!/usr/bin/env bash
# The 20 scenarios that every version of the module must pass, with redis-cli against a private server.
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
ask() { cli --no-raw "$@" 2>&1 | tr -s ' \n' ' ' | sed 's/ $//'; }

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

say "${bold}Module${plain}"
commands='cache.get cache.lock cache.set lock.acquire lock.extend lock.release task.ack task.consume task.publish task.retry'
listed=$(cli COMMAND LIST FILTERBY MODULE corral | tr '[:upper:]' '[:lower:]')
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
