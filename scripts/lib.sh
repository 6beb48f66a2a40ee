# shellcheck shell=bash
# What the scripts beside this file share: messages, waiting, and a server of their own. Sourced, never run.
# Inputs: SERVER (default redis-server), CORRAL_MODULE (default: what `make build` made). bash 3.2 is enough.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
suffix=so
[[ $(uname) != Darwin ]] || suffix=dylib
module=${CORRAL_MODULE:-${CARGO_TARGET_DIR:-$root/target}/release/libcorral.$suffix}
server=${SERVER:-redis-server}
# A server changes into its data directory before it loads the module.
[[ $module == /* ]] || module=$PWD/$module
[[ $server == /* || $server != */* ]] || server=$PWD/$server

# shellcheck disable=SC2034 # used where this file is sourced
bold='' dim='' green='' red='' plain=''
if [[ -t 1 || -n ${FORCE_COLOR:-} ]]; then
  # shellcheck disable=SC2034
  bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
fi

say() { printf '%s\n' "$*"; }
die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# eventually SECONDS COMMAND...: runs COMMAND again and again until it succeeds; fails when the time is over.
eventually() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port FIRST: the first free port from FIRST on.
free_port() {
  local candidate=$1
  until port_is_free "$candidate"; do candidate=$((candidate + 1)); done
  say "$candidate"
}

cli() { redis-cli -p "$port" "$@"; }

# The answer must come from our own process: another server may have taken the port in the meantime.
server_answers() {
  [[ $(cli PING 2>/dev/null) == PONG && $(cli INFO server) == *process_id:"$server_pid"[!0-9]* ]]
}
server_is_gone() { ! kill -0 "$server_pid" 2>/dev/null; }
server_has_decided() { server_answers || server_is_gone; }

# await_server: succeeds as soon as server_pid answers on port; fails when it ended, or after 30 seconds.
await_server() { eventually 30 server_has_decided && ! server_is_gone; }

# need_module: stops with a hint where the module or a program to run it with is missing.
need_module() {
  [[ -f $module ]] || die "$module is missing: run 'make build' first"
  have "$server" || die "$server is missing: run 'scripts/setup.sh run' first"
  have redis-cli || die "redis-cli is missing: run 'scripts/setup.sh run' first"
}

# start_server: a server with the module on loopback, its files in a directory of its own; both go when the script
# ends. Sets port, server_pid and workdir.
start_server() {
  need_module
  workdir=$(mktemp -d)
  trap stop_server EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  while :; do
    # Random, so that scripts that run side by side seldom meet; below the range of outgoing connections.
    port=$(free_port $((20000 + RANDOM % 10000)))
    "$server" --bind 127.0.0.1 --port "$port" --dir "$workdir" --save '' --appendonly no \
      --loadmodule "$module" >"$workdir/server.log" 2>&1 &
    server_pid=$!
    if await_server; then return; fi
    # Somebody else was quicker on this port: take another one. Anything else is a real failure.
    grep -q 'Address already in use' "$workdir/server.log" || break
  done
  cat "$workdir/server.log" >&2
  die "$server did not start with $module"
}

# stop_server: ends server_pid and removes workdir, whichever of them is set.
stop_server() {
  if [[ -n ${server_pid:-} ]] && ! server_is_gone; then
    kill "$server_pid"
    eventually 10 server_is_gone || kill -9 "$server_pid"
  fi
  if [[ -n ${workdir:-} ]]; then rm -rf "$workdir"; fi
}
