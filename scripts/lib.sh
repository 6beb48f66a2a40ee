# shellcheck shell=bash
# Shared functions of the scripts: messages, waiting, and a private server. This file is sourced, never run.
# Inputs: SERVER (default redis-server), CORRAL_MODULE (default: the output of `make build`). Works with bash 3.2.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
suffix=so
[[ $(uname) != Darwin ]] || suffix=dylib
module=${CORRAL_MODULE:-${CARGO_TARGET_DIR:-$root/target}/release/libcorral.$suffix}
server=${SERVER:-redis-server}
# The client libraries that scripts/clients.sh installs.
# shellcheck disable=SC2034 # Used by the scripts that source this file.
clients=${CORRAL_CLIENTS:-${XDG_CACHE_HOME:-$HOME/.cache}/corral/clients}
# A server changes into its data directory before it loads the module.
[[ $module == /* ]] || module=$PWD/$module
[[ $server == /* || $server != */* ]] || server=$PWD/$server

# shellcheck disable=SC2034 # Used by the scripts that source this file.
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
list() { printf '%s, ' "$@" | sed 's/, $//'; }

# eventually SECONDS COMMAND...: repeats COMMAND until it succeeds; fails after SECONDS.
eventually() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port FIRST: prints the first free port, starting with FIRST.
free_port() {
  local candidate=$1
  until port_is_free "$candidate"; do candidate=$((candidate + 1)); done
  say "$candidate"
}

cli() { redis-cli -p "$port" "$@"; }

# The reply must come from the server that this script started: another server may have taken the port.
server_answers() {
  [[ $(cli PING 2>/dev/null) == PONG && $(cli INFO server) == *process_id:"$server_pid"[!0-9]* ]]
}
server_has_exited() { ! kill -0 "$server_pid" 2>/dev/null; }
server_answers_or_has_exited() { server_answers || server_has_exited; }

# await_server: succeeds when server_pid answers on port; fails when it exits, or after 30 seconds.
await_server() { eventually 30 server_answers_or_has_exited && ! server_has_exited; }

# need_module: exits with a hint if the module, the server or redis-cli is missing.
need_module() {
  [[ -f $module ]] || die "$module is missing: run 'make build' first"
  have "$server" || die "$server is missing: run 'scripts/setup.sh run' first"
  have redis-cli || die "redis-cli is missing: run 'scripts/setup.sh run' first"
}

# start_server: starts a server with the module on loopback, with a temporary data directory. Both are removed when the
# script exits. Sets port, server_pid and workdir.
start_server() {
  need_module
  workdir=$(mktemp -d)
  trap stop_server EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  while :; do
    # Random, so that concurrent scripts seldom collide; below the range of outgoing connections.
    port=$(free_port $((20000 + RANDOM % 10000)))
    "$server" --bind 127.0.0.1 --port "$port" --dir "$workdir" --save '' --appendonly no \
      --loadmodule "$module" >"$workdir/server.log" 2>&1 &
    server_pid=$!
    if await_server; then return; fi
    # If another process took the port first, try another port. Anything else is a failure.
    grep -q 'Address already in use' "$workdir/server.log" || break
  done
  cat "$workdir/server.log" >&2
  die "$server did not start with $module"
}

# stop_server: stops server_pid and removes workdir, if they are set.
stop_server() {
  if [[ -n ${server_pid:-} ]] && ! server_has_exited; then
    kill "$server_pid"
    eventually 10 server_has_exited || kill -9 "$server_pid"
  fi
  if [[ -n ${workdir:-} ]]; then rm -rf "$workdir"; fi
}
