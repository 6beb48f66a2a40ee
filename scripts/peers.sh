#!/usr/bin/env bash
# Corral's queue beside those that people use today, from Python and from Node: the same task, which does nothing, on
# the same machine and the same server, each with its default settings.
# Usage: [SERVER=path] [TASKS=n] [ROUNDS=n] scripts/peers.sh [corral|celery|rq|bullmq]...      (default: all)
# No part of the tests. It needs python3 with venv and pip, or node and npm, and installs the peers, in their newest
# versions, into a directory of its own that is removed. What cannot be had is left out. It takes some 12 minutes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
source "$here/lib.sh"

tasks=${TASKS:-20000}
rounds=${ROUNDS:-3}
# How many seconds to wait for the task of a worker that was killed, and what the time-outs are set to where they are
# set at all.
patience=70
short=5
sessions=()
place=$(mktemp -d)

finish() {
  kill_workers
  stop_server
  rm -rf "$place"
}
trap finish EXIT

# start: a fresh server.
start() {
  start_server
  trap finish EXIT
}

# --- The peers ------------------------------------------------------------------------------------------------------

# program PEER: sets `program`, what publishes its tasks or works on them: publish|postpone|hang|work COUNT
program() {
  case $1 in
    corral.py) program=("$place/python/bin/python" corral_peer.py) ;;
    celery | rq) program=("$place/python/bin/python" "$1_peer.py") ;;
    corral.mjs | bullmq) program=(node "${1%.mjs}_peer.mjs") ;;
  esac
}

label() {
  case $1 in
    corral.py) say "Corral, from Python" ;;
    corral.mjs) say "Corral, from Node" ;;
    celery) say "Celery $(python_version celery)" ;;
    rq) say "RQ $(python_version rq)" ;;
    bullmq) say "BullMQ $(node -p "require('$place/node_modules/bullmq/package.json').version")" ;;
  esac
}
python_version() { "$place/python/bin/python" -c "from importlib.metadata import version; print(version('$1'))"; }

# As many for all would take some of them minutes: RQ forks for each task.
tasks_of() {
  case $1 in
    celery) say $((tasks / 5)) ;;
    rq) say $((tasks / 50)) ;;
    *) say "$tasks" ;;
  esac
}

wanted() { (($# == 1)) || [[ " ${*:2} " == *" $1 "* ]]; }

# install [NAME...]: sets `peers` to those that are wanted and can be had.
install() {
  local python=() node=()
  peers=()
  cp "$here"/peers/* "$place"
  if wanted celery "$@"; then python+=(celery); fi
  if wanted rq "$@"; then python+=(rq); fi
  if wanted bullmq "$@"; then node+=(bullmq); fi
  if ((${#python[@]} > 0)) || wanted corral "$@"; then
    if install_python "${python[@]/celery/celery[redis]}"; then
      if wanted corral "$@"; then peers+=(corral.py); fi
      peers+=(${python[@]+"${python[@]}"})
    fi
  fi
  if ((${#node[@]} > 0)) || wanted corral "$@"; then
    if install_node ${node[@]+"${node[@]}"}; then
      if wanted corral "$@"; then peers+=(corral.mjs); fi
      peers+=(${node[@]+"${node[@]}"})
    fi
  fi
}

install_python() {
  if ! have python3 || ! python3 -m venv "$place/python" >/dev/null 2>&1; then
    say "skipped: what runs in Python, for there is no python3 with venv and pip"
    return 1
  fi
  say "Installing for Python: redis $*"
  "$place/python/bin/python" -m pip install --quiet redis "$@" && return
  say "skipped: what runs in Python, for pip could not install it"
  return 1
}

install_node() {
  if ! have node || ! have npm; then
    say "skipped: what runs in Node, for there is no node with npm"
    return 1
  fi
  say "Installing for Node: ioredis $*"
  npm install --prefix "$place" --silent --no-fund --no-audit ioredis "$@" && return
  say "skipped: what runs in Node, for npm could not install it"
  return 1
}

# --- Workers --------------------------------------------------------------------------------------------------------

# run PEER WHAT COUNT: becomes the program. Its place is where it finds what was installed.
run() {
  program "$1"
  cd "$place"
  PORT=$port QUEUE=$queue TIMEOUT=$timeout exec ${session+setsid} "${program[@]}" "$2" "$3" >>log 2>&1
}

# tell PEER WHAT COUNT: publishes.
tell() { (run "$@") || die "$1 failed: $(tail "$place/log")"; }

# start_workers PEER COUNT: in a session of their own, by which they are ended, with whatever they have started.
start_workers() {
  (session=own run "$1" work "$2") &
  sessions+=("$!")
  # So that the shell says nothing when they are killed.
  disown "$!"
}

# kill_session SESSION: with kill -9, as a machine that fails.
kill_session() {
  local ids
  ids=$(ps -e -o sid=,pid= | awk -v session="$1" '$1 == session { print $2 }')
  # shellcheck disable=SC2086 # One word for each process.
  [[ -z $ids ]] || kill -9 $ids 2>/dev/null || true
}

kill_workers() {
  local session
  for session in ${sessions[@]+"${sessions[@]}"}; do
    kill_session "$session"
  done
  sessions=()
}

is_there() { (($(cli EXISTS "$queue:$1") == 1)); }

# --- What is measured -----------------------------------------------------------------------------------------------

# throughput PEER WORKERS: adds a line to a file: tasks/s, without the first fifth, when not all workers have begun.
throughput() {
  local count begin end
  count=$(tasks_of "$1")
  start
  queue=tasks
  tell "$1" publish "$count"
  run_until_done "$1" "$2"
  begin=$(cli GET "$queue:begin")
  end=$(cli GET "$queue:end")
  awk -v begin="$begin" -v end="$end" -v count="$count" \
    'BEGIN { printf "%.0f/s\n", count * 0.8 / (end - begin) }' >>"$place/rate.$1.$2"
  stop_server
}

# best FILE: of its lines. Whatever else the machine does makes a round slower, and never faster.
best() { sort -g "$1" | tail -n 1; }

# memory PEER: sets `growth`, what each task leaves in the server.
memory() {
  local count before after
  count=$(tasks_of "$1")
  start
  # The first tasks bring what stays: scripts, groups, settings.
  queue=tasks
  tell "$1" publish 100
  run_until_done "$1" 10
  before=$(used_memory)
  tell "$1" publish "$count"
  run_until_done "$1" 10
  after=$(used_memory)
  growth=$(awk -v grown=$((after - before)) -v count="$count" 'BEGIN { printf "%+.0f B", grown / count }')
  stop_server
}

run_until_done() {
  cli DEL "$queue:end" >/dev/null
  start_workers "$1" "$2"
  eventually 300 is_there end || die "$1 did not do all its tasks: $(tail "$place/log")"
  # The other workers may still be at their last tasks.
  sleep 1
  kill_workers
}

used_memory() {
  eventually 10 nobody_is_connected || die "the workers are still connected"
  cli INFO memory | sed -n 's/^used_memory:\([0-9]*\).*/\1/p'
}
nobody_is_connected() { [[ $(cli INFO clients) == *connected_clients:1[!0-9]* ]]; }

# punctuality PEER: sets `late` (two numbers).
punctuality() {
  local count=1000
  start
  queue=reminders
  start_workers "$1" 10
  tell "$1" publish 100
  eventually 60 is_there end || die "$1 did not begin: $(tail "$place/log")"
  tell "$1" postpone "$count"
  eventually 120 all_are_done "$count" || say "$1 did only $(cli LLEN "$queue:late") of $count delayed tasks" >&2
  late=$(cli LRANGE "$queue:late" 0 -1 | sort -g | awk '{ late[NR] = $1 }
    END { printf "%.1f ms|%.1f ms", late[int((NR - 1) * 0.5) + 1], late[int((NR - 1) * 0.99) + 1] }')
  kill_workers
  stop_server
}
all_are_done() { (($(cli LLEN "$queue:late") >= $1)); }

# recovery PEER: of two workers the one that has the task is killed; writes to a file when the other one has it.
recovery() {
  local killed
  start_workers "$1" 1
  start_workers "$1" 1
  tell "$1" publish 100
  eventually 60 is_there end || die "$1 did not begin: $(tail "$place/log")"
  sleep 8
  tell "$1" hang 1
  eventually 30 is_there worker || die "$1 did not begin: $(tail "$place/log")"
  sleep 1
  kill_session "$(cli GET "$queue:worker")"
  killed=$(now)
  if eventually "$patience" is_there again; then
    awk -v killed="$killed" -v again="$(cli GET "$queue:again")" 'BEGIN { printf "%.1f s\n", again - killed }'
  else
    say "> $patience s"
  fi >"$place/recovery.$queue"
  kill_workers
}
now() { date +%s.%N; }

# recoveries: of all peers at the same time, for they do nothing but wait; on one server.
recoveries() {
  local name pids=()
  start
  for name in "${peers[@]}"; do
    for timeout in '' "$short"; do
      queue=$name-recovery-${timeout:-default}
      # A subshell has its own list of sessions, and must not stop the server.
      (
        trap kill_workers EXIT
        recovery "$name"
      ) &
      pids+=("$!")
      sleep 2
    done
  done
  wait "${pids[@]}"
  timeout=''
  stop_server
}

# --- The table ------------------------------------------------------------------------------------------------------

row() { printf '%-20s  %10s  %10s  %11s  %11s  %11s  %13s  %10s\n' "$@"; }

measure() {
  local name round workers
  timeout=''
  say "$("$server" --version | cut -d ' ' -f 1-3), $(nproc) processors. Tasks a second with 1 and 10 workers, best of" \
    "$rounds rounds; how late 1,000 delayed tasks begin; how long after kill -9 a task begins again, by default and with" \
    "a time-out of $short s; what a task that is done leaves in the server's memory, by default."
  say ""
  recoveries
  for ((round = 0; round < rounds; round++)); do
    for name in "${peers[@]}"; do
      for workers in 1 10; do throughput "$name" "$workers"; done
    done
  done
  row queue "1 worker" "10 workers" "p50 late" "p99 late" "after kill" "time-out $short s" "memory"
  for name in "${peers[@]}"; do
    punctuality "$name"
    memory "$name"
    row "$(label "$name")" "$(best "$place/rate.$name.1")" "$(best "$place/rate.$name.10")" \
      "${late%|*}" "${late#*|}" "$(cat "$place/recovery.$name-recovery-default")" \
      "$(cat "$place/recovery.$name-recovery-$short")" "$growth"
  done
}

for name; do
  [[ $name =~ ^(corral|celery|rq|bullmq)$ ]] || die "unknown peer '$name': corral, celery, rq, bullmq"
done
need_module
have setsid || die "setsid is missing: it belongs to util-linux"
install "$@"
((${#peers[@]} > 0)) || die "there is nothing to measure"
measure
