#!/usr/bin/env bash
# Starts a server with the module in the foreground, on loopback only. Ctrl-C stops it.
# Usage: [SERVER=path] [PORT=n] [DIR=path] scripts/run.sh [port]
# The default port is 6379, or the next free port. The data are removed when the server stops, unless DIR is set.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

need_module
port=${1:-${PORT:-$(free_port 6379)}}
trap stop_server EXIT
trap 'exit 0' INT TERM

if [[ -n ${DIR:-} ]]; then
  mkdir -p "$DIR"
  data=$(cd "$DIR" && pwd)
  keep=yes
  data_note="kept in $data"
else
  workdir=$(mktemp -d)
  data=$workdir
  keep=no
  data_note="removed when the server stops (set DIR=/path to keep them)"
fi

"$server" --bind 127.0.0.1 --port "$port" --dir "$data" --save '' --appendonly "$keep" --loadmodule "$module" &
server_pid=$!
await_server || die "the server did not start; its log is above"

cat <<TXT

${bold}The server answers on port $port.${plain} The data are $data_note. Ctrl-C stops it. In another terminal:

  redis-cli -p $port CACHE.LOCK page:1 60000 5000              LOAD: load the value; other clients get WAIT
  redis-cli -p $port CACHE.SET page:1 '<html>' 60000           stores the value and releases the lock
  redis-cli -p $port CACHE.GET page:1

  redis-cli -p $port TASK.PUBLISH mail 'to: ann'               the id of the task
  redis-cli -p $port TASK.CONSUME workers w1 mail 10 2000      up to 10 tasks; waits up to 2 seconds for the first
  redis-cli -p $port TASK.ACK mail workers <id>

  redis-cli -p $port LOCK.ACQUIRE nightly-batch me 30000       1: granted for 30 seconds; 0: held by another client
  redis-cli -p $port LOCK.EXTEND nightly-batch me 30000
  redis-cli -p $port LOCK.RELEASE nightly-batch me

TXT
wait "$server_pid"
