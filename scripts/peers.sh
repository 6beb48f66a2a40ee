#!/usr/bin/env bash
# Compares Corral's task queue with other queues: the same empty task on the same machine and the same server, each queue
# with its default settings.
# Usage: [SERVER=path] [TASKS=n] [ROUNDS=n] [TABLE=load|speed|workers] scripts/peers.sh [PEER]...
#        PEER: corral, celery, rq, bullmq, beanstalkd, and for the table load: dramatiq, taskiq, streaq, bee-queue
#        (default: all)
#        TABLE: one of the tables (default: all three). The first two are those of docs/performance.md, in Markdown.
# This is not part of the tests. It needs python3 with venv and pip, or node and npm, and installs the latest versions
# of the peers into a temporary directory. Peers that cannot be installed are skipped, and so is beanstalkd if it is not
# installed. It takes about 30 minutes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
source "$here/lib.sh"

known=(corral celery rq bullmq beanstalkd dramatiq taskiq streaq bee-queue)
table=${TABLE:-all}
tasks=${TASKS:-20000}
rounds=${ROUNDS:-3}
# How many seconds to wait for the task of a killed worker, and the timeout of leases in the runs that set one.
max_wait=70
short=5
# How often a worker with a tied lease is killed, and how many tasks a worker with two queues gets.
crashes=50
idle_tasks=400
sessions=()
place=$(mktemp -d)

finish() {
  kill_workers
  stop_beanstalkd
  stop_server
  rm -rf "$place"
}
trap finish EXIT

# start: starts a new server.
start() {
  start_server
  trap finish EXIT
}

# --- The peers ------------------------------------------------------------------------------------------------------

# program PEER: sets `program`, which publishes or processes tasks: publish|publish_delayed|hang|work COUNT
program() {
  case $1 in
    *.mjs | bullmq | bee-queue) program=(node "${1%.mjs}_peer.mjs") ;;
    *) program=("$place/python/bin/python" "${1%.py}_peer.py") ;;
  esac
}

label() {
  case $1 in
    corral.py) say "Corral, from Python" ;;
    corral.mjs) say "Corral, from Node" ;;
    worker.py) say "its \`asyncio.Worker\`" ;;
    worker.mjs) say "its \`Worker\`" ;;
    celery) say "Celery $(python_version celery)" ;;
    rq) say "RQ $(python_version rq)" ;;
    dramatiq) say "Dramatiq $(python_version dramatiq)" ;;
    taskiq) say "Taskiq $(python_version taskiq)" ;;
    streaq) say "streaQ $(python_version streaq)" ;;
    beanstalkd) say "beanstalkd $(beanstalkd -v | cut -d ' ' -f 2)" ;;
    bullmq) say "BullMQ $(node_version bullmq)" ;;
    bee-queue) say "bee-queue $(node_version bee-queue)" ;;
  esac
}
python_version() { "$place/python/bin/python" -c "from importlib.metadata import version; print('.'.join(version('$1').split('.')[:2]))"; }
node_version() { node -p "require('$place/node_modules/$1/package.json').version.split('.').slice(0, 2).join('.')"; }

# The slower queues get fewer tasks, or they would take minutes: RQ forks for each task.
tasks_of() {
  case $1 in
    celery | dramatiq | taskiq | streaq) say $((tasks / 5)) ;;
    rq) say $((tasks / 50)) ;;
    *) say "$tasks" ;;
  esac
}

selected() { (($# == 1)) || [[ " ${*:2} " == *" $1 "* ]]; }

# install [NAME...]: installs the selected peers. Sets `peers` to those that are available for the tables that measure
# delays and lost workers, and `loaded` to those for the table of the load.
install() {
  local python=() node=() more_python=() more_node=()
  peers=() loaded=()
  cp "$here"/peers/* "$place"
  if selected celery "$@"; then python+=(celery); fi
  if selected rq "$@"; then python+=(rq); fi
  if selected beanstalkd "$@" && have beanstalkd; then python+=(greenstalk); fi
  if selected bullmq "$@"; then node+=(bullmq); fi
  if [[ $table == load || $table == all ]]; then
    if selected dramatiq "$@"; then more_python+=(dramatiq); fi
    if selected taskiq "$@"; then more_python+=(taskiq); fi
    if selected streaq "$@"; then more_python+=(streaq); fi
    if selected bee-queue "$@"; then more_node+=(bee-queue); fi
  fi
  if ((${#python[@]} + ${#more_python[@]} > 0)) || selected corral "$@"; then
    if install_python "${python[@]/celery/celery[redis]}" ${more_python[@]+"${more_python[@]}"}; then
      if selected corral "$@"; then peers+=(corral.py); fi
      peers+=(${python[@]+"${python[@]/greenstalk/beanstalkd}"})
    fi
  fi
  if ((${#node[@]} + ${#more_node[@]} > 0)) || selected corral "$@"; then
    if install_node ${node[@]+"${node[@]}"} ${more_node[@]+"${more_node[@]}"}; then
      if selected corral "$@"; then peers+=(corral.mjs); fi
      peers+=(${node[@]+"${node[@]}"})
    fi
  fi
  install_packages "$@"
  # beanstalkd has a server of its own.
  for name in ${peers[@]+"${peers[@]}"}; do [[ $name == beanstalkd ]] || loaded+=("$name"); done
  loaded+=(${more_python[@]+"${more_python[@]}"} ${more_node[@]+"${more_node[@]}"})
}

# install_packages: the packages of Corral, for the table of the load.
install_packages() {
  [[ $table == load || $table == all ]] && selected corral "$@" || return 0
  if [[ " ${peers[*]} " == *" corral.py "* ]] && "$place/python/bin/python" -m pip install --quiet "$root/clients/python"; then
    loaded+=(worker.py)
  fi
  if [[ " ${peers[*]} " == *" corral.mjs "* ]] && "$here/node.sh" build >"$place/node.log" 2>&1 &&
    npm install --prefix "$place" --silent --no-fund --no-audit "$clients"/node/consumer/corral-client-*.tgz; then
    loaded+=(worker.mjs)
  fi
}

install_python() {
  if ! have python3 || ! python3 -m venv "$place/python" >/dev/null 2>&1; then
    say "skipped the Python peers: python3 with venv and pip is missing"
    return 1
  fi
  # The queues that need a package for Redis beside their own.
  set -- "${@/#dramatiq/dramatiq[redis]}"
  if [[ " $* " == *" taskiq "* ]]; then set -- "$@" taskiq-redis; fi
  say "Installing for Python: redis $*"
  "$place/python/bin/python" -m pip install --quiet redis "$@" && return
  say "skipped the Python peers: pip could not install them"
  return 1
}

install_node() {
  if ! have node || ! have npm; then
    say "skipped the Node peers: node with npm is missing"
    return 1
  fi
  say "Installing for Node: ioredis $*"
  npm install --prefix "$place" --silent --no-fund --no-audit ioredis "$@" && return
  say "skipped the Node peers: npm could not install them"
  return 1
}

# --- Workers --------------------------------------------------------------------------------------------------------

# run PEER WHAT COUNT: replaces this process with the program, in the directory with its packages.
run() {
  program "$1"
  cd "$place"
  PORT=$port BEANSTALKD=${beanstalkd_port:-} QUEUE=$queue SECOND=${second:-} TIMEOUT=$timeout TIED=${tied:-} THREADS=${threads:-} exec ${session+setsid} "${program[@]}" "$2" "$3" >>log 2>&1
}

# run_peer PEER WHAT COUNT: runs the program to its end.
run_peer() { (run "$@") || die "$1 failed: $(tail "$place/log")"; }

# start_workers PEER COUNT: starts workers in their own session, so that they can be killed with all their children.
start_workers() {
  (session=own run "$1" work "$2") &
  sessions+=("$!")
  # Suppresses the message of the shell when they are killed.
  disown "$!"
}

# kill_session SESSION: kills the session with kill -9, like a machine that fails.
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

# start_beanstalkd, stop_beanstalkd: the server of beanstalkd, which is not Redis.
start_beanstalkd() {
  beanstalkd_port=$(free_port $((30000 + RANDOM % 2000)))
  beanstalkd -l 127.0.0.1 -p "$beanstalkd_port" &
  beanstalkd_pid=$!
  eventually 10 port_is_taken "$beanstalkd_port" || die "beanstalkd did not start"
}
stop_beanstalkd() { [[ -z ${beanstalkd_pid:-} ]] || kill "$beanstalkd_pid" 2>/dev/null || true; }
port_is_taken() { ! port_is_free "$1"; }

is_set() { (($(cli EXISTS "$queue:$1") == 1)); }

# --- Measurements ---------------------------------------------------------------------------------------------------

# throughput PEER WORKERS: adds the tasks/s to a file, without the first fifth, in which not all workers have started.
throughput() {
  local count begin end
  count=$(tasks_of "$1")
  start
  queue=tasks
  run_peer "$1" publish "$count"
  run_until_done "$1" "$2"
  begin=$(cli GET "$queue:begin")
  end=$(cli GET "$queue:end")
  awk -v begin="$begin" -v end="$end" -v count="$count" \
    'BEGIN { printf "%.0f/s\n", count * 0.8 / (end - begin) }' >>"$place/rate.$1.$2"
  stop_server
}

# load PEER: adds the tasks/s and the server time of a task in microseconds to files, with 50 tasks at a time.
load() {
  local count before begin end threads=yes
  count=$(tasks_of "$1")
  start
  queue=tasks
  run_peer "$1" publish "$count"
  before=$(server_time)
  # What is left to acknowledge belongs to the tasks.
  run_until_done "$1" 50
  awk -v nanos=$(($(server_time) - before)) -v count="$count" 'BEGIN { printf "%.1f\n", nanos / 1000 / count }' >>"$place/time.$1"
  begin=$(cli GET "$queue:begin")
  end=$(cli GET "$queue:end")
  awk -v begin="$begin" -v end="$end" -v count="$count" 'BEGIN { printf "%.0f\n", count * 0.8 / (end - begin) }' >>"$place/load.$1"
  stop_server
}

# server_time: prints the processor time of the server in nanoseconds.
server_time() { cut -d ' ' -f 1 "/proc/$server_pid/schedstat"; }

# best FILE: prints the highest number. Other work of the machine makes a round slower, never faster.
best() { sort -g "$1" | tail -n 1; }

# memory PEER: sets `growth`, the memory that each finished task leaves on the server.
memory() {
  local count before after
  count=$(tasks_of "$1")
  start
  # The first tasks create what every queue keeps: scripts, groups, settings.
  queue=tasks
  run_peer "$1" publish 100
  run_until_done "$1" 10
  before=$(used_memory)
  run_peer "$1" publish "$count"
  run_until_done "$1" 10
  after=$(used_memory)
  growth=$(awk -v grown=$((after - before)) -v count="$count" 'BEGIN { printf "%+.0f B", grown / count }')
  stop_server
}

run_until_done() {
  cli DEL "$queue:end" >/dev/null
  start_workers "$1" "$2"
  eventually 300 is_set end || die "$1 did not finish all tasks: $(tail "$place/log")"
  # The other workers may still process their last tasks.
  sleep 1
  kill_workers
}

used_memory() {
  eventually 10 no_client_is_connected || die "the workers are still connected"
  cli INFO memory | sed -n 's/^used_memory:\([0-9]*\).*/\1/p'
}
no_client_is_connected() { [[ $(cli INFO clients) == *connected_clients:1[!0-9]* ]]; }

# punctuality PEER: sets `late` to the median and the 99th percentile.
punctuality() {
  local count=1000
  start
  queue=reminders
  start_workers "$1" 10
  run_peer "$1" publish 100
  eventually 60 is_set end || die "$1 did not start: $(tail "$place/log")"
  run_peer "$1" publish_delayed "$count"
  eventually 120 all_are_finished "$count" ||
    say "$1 finished only $(cli LLEN "$queue:late") of $count delayed tasks" >&2
  late=$(cli LRANGE "$queue:late" 0 -1 | sort -g | awk '{ late[NR] = $1 }
    END { printf "%.1f ms|%.1f ms", late[int((NR - 1) * 0.5) + 1], late[int((NR - 1) * 0.99) + 1] }')
  kill_workers
  stop_server
}
all_are_finished() { (($(cli LLEN "$queue:late") >= $1)); }

# recovery PEER: starts two workers and kills the one that has the task. Writes to a file how long the other one takes to
# get it.
recovery() {
  local killed
  start_workers "$1" 1
  start_workers "$1" 1
  run_peer "$1" publish 100
  eventually 60 is_set end || die "$1 did not start: $(tail "$place/log")"
  sleep 8
  run_peer "$1" hang 1
  eventually 30 is_set worker1 || die "$1 did not start: $(tail "$place/log")"
  sleep 1
  kill_session "$(cli GET "$queue:worker1")"
  killed=$(now)
  if eventually "$max_wait" is_set again1; then
    awk -v killed="$killed" -v again="$(cli GET "$queue:again1")" 'BEGIN { printf "%.1f s\n", again - killed }'
  else
    say "> $max_wait s"
  fi >"$place/recovery.$queue"
  kill_workers
}
now() { date +%s.%N; }

# recoveries: measures all peers at the same time on one server, because they only wait.
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

# percentiles: reads times in ms and prints the median and the 99th percentile.
percentiles() {
  sort -g | awk '{ time[NR] = $1 }
    END { if (NR) printf "%.1f ms|%.1f ms", time[int((NR - 1) * 0.5) + 1], time[int((NR - 1) * 0.99) + 1]; else printf "-|-" }'
}

# tied_recovery PEER: sets `recovered` to the median and the 99th percentile of the time from the kill -9 of a worker,
# whose lease ends with its connection, to the next start of its task.
tied_recovery() {
  start
  queue=crash
  program "$1"
  recovered=$(cd "$place" && PORT=$port BEANSTALKD=${beanstalkd_port:-} QUEUE=$queue TIED=1 \
    "$place/python/bin/python" crash.py "$crashes" "${program[@]}" 2>>log | percentiles)
  stop_server
}

# two_queues PEER: one worker processes two queues, and tasks are published one at a time. Sets `late` to the median and
# the 99th percentile of the time from publishing to the start, and `connected` to the connections of the worker.
two_queues() {
  start
  queue=two second=two-b
  start_workers "$1" 1
  # The worker must have started before anything is measured.
  second='' run_peer "$1" publish 100
  eventually 60 is_set end || die "$1 did not start: $(tail "$place/log")"
  connected=$(connections "$1")
  second='' run_peer "$1" now "$((idle_tasks / 2))"
  eventually 60 all_are_finished "$((idle_tasks / 2))" || die "$1 did not finish"
  late=$(cli LRANGE "$queue:late" 0 -1 | percentiles)
  # The other queue is served as well.
  queue=two-b second='' run_peer "$1" now "$((idle_tasks / 2))"
  eventually 60 all_are_finished "$idle_tasks" || die "$1 did not serve its second queue"
  second=''
  kill_workers
  stop_server
}

connections() {
  if [[ $1 == beanstalkd ]]; then
    # One of them is the one that asks.
    exec 3<>"/dev/tcp/127.0.0.1/$beanstalkd_port"
    printf 'stats\r\nquit\r\n' >&3
    awk '/^current-connections:/ { print $2 - 1 }' <&3
    exec 3>&-
  else
    # Without this one, and without the one that reports progress.
    cli INFO clients | awk -F ':' '/^connected_clients:/ { print $2 - 2 }'
  fi
}

# --- The tables ------------------------------------------------------------------------------------------------------

# how PEER: how it takes 50 tasks at a time.
how() {
  case $1 in
    corral.*) say "50 workers that take one task each per round trip" ;;
    worker.*) say "a worker that asks for as many as it has room for and acknowledges together" ;;
    rq) say "50 processes" ;;
    celery | dramatiq) say "a worker with 50 threads" ;;
    *) say "a worker with 50 tasks at a time" ;;
  esac
}

measure_load() {
  local name round
  say "$("$server" --version | cut -d ' ' -f 1-3), $(nproc) processors. 50 tasks at a time, from a backlog: the best of" \
    "$rounds rounds in turn."
  say ""
  for ((round = 0; round < rounds; round++)); do
    for name in "${loaded[@]}"; do load "$name"; done
  done
  say "| queue | | server time for a task | tasks/s |"
  say "|---|---|---|---|"
  # The rows of Corral come first, in pairs.
  for name in corral.py worker.py corral.mjs worker.mjs celery rq dramatiq taskiq streaq bullmq bee-queue; do
    [[ " ${loaded[*]} " == *" $name "* ]] || continue
    say "| $(label "$name") | $(how "$name") | $(sort -g "$place/time.$name" | head -n 1) µs | $(best "$place/load.$name") |"
  done
}

row() { printf '%-20s  %10s  %10s  %11s  %11s  %11s  %13s  %10s\n' "$@"; }

measure_speed() {
  local name round workers
  say "$("$server" --version | cut -d ' ' -f 1-3), $(nproc) processors. Tasks per second with 1 and 10 workers," \
    "best of $rounds rounds; the lateness of 1,000 delayed tasks; the time from kill -9 to the next start of the task," \
    "by default and with a timeout of $short s; the memory that a finished task leaves on the server, by default."
  say ""
  recoveries
  for ((round = 0; round < rounds; round++)); do
    for name in "${peers[@]}"; do
      for workers in 1 10; do throughput "$name" "$workers"; done
    done
  done
  row queue "1 worker" "10 workers" "p50 late" "p99 late" "after kill" "timeout $short s" "memory"
  for name in "${peers[@]}"; do
    # beanstalkd delays by whole seconds, and its memory is not the server's.
    late='-|-' growth=-
    if [[ $name != beanstalkd ]]; then
      punctuality "$name"
      memory "$name"
    fi
    row "$(label "$name")" "$(best "$place/rate.$name.1")" "$(best "$place/rate.$name.10")" \
      "${late%|*}" "${late#*|}" "$(cat "$place/recovery.$name-recovery-default")" \
      "$(cat "$place/recovery.$name-recovery-$short")" "$growth"
  done
}

workers_row() { printf '%-20s  %11s  %11s  %11s  %11s  %11s  %12s\n' "$@"; }

measure_workers() {
  local name
  say "A worker is killed with kill -9: the time to the next start of its task, by default, and $crashes times with a" \
    "lease that ends with its connection. One worker with two queues: the time from publishing to the start of" \
    "$((idle_tasks / 2)) tasks, and the connections that the worker needs."
  say ""
  recoveries
  workers_row queue "after kill" "tied p50" "tied p99" "p50 late" "p99 late" connections
  for name in "${peers[@]}"; do
    recovered='-|-' late='-|-' connected=-
    case $name in corral.* | beanstalkd) tied_recovery "$name" ;; esac
    # A worker of RQ takes no tasks while it starts a process for one.
    [[ $name == rq ]] || two_queues "$name"
    workers_row "$(label "$name")" "$(cat "$place/recovery.$name-recovery-default")" \
      "${recovered%|*}" "${recovered#*|}" "${late%|*}" "${late#*|}" "$connected"
  done
}

measure() {
  timeout=''
  if [[ " ${peers[*]} " == *" beanstalkd "* ]]; then start_beanstalkd; fi
  case $table in
    load) measure_load ;;
    speed) measure_speed ;;
    workers) measure_workers ;;
    all)
      measure_load
      say ""
      measure_speed
      say ""
      measure_workers
      ;;
    *) die "unknown table '$table': load, speed, workers" ;;
  esac
}

for name; do
  [[ " ${known[*]} " == *" $name "* ]] || die "unknown peer '$name': $(list "${known[@]}")"
done
need_module
have setsid || die "setsid is missing: it belongs to util-linux"
install "$@"
((${#peers[@]} + ${#loaded[@]} > 0)) || die "no peer is available"
measure
