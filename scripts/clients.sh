#!/usr/bin/env bash
# Installs the libraries that the code in docs/, the packages in clients/ and their tests need, where Python and Node are.
# They go to the cache directory, outside this checkout. Without a library, the tests that need it are skipped; with
# CI=true, a failed installation is an error.
# Usage: scripts/clients.sh [python|node|peers]      (default: python and node; peers: for scripts/python.sh bars)
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

# What clients/python needs, what it is built and tested with, and the libraries that the pages and the examples use.
python_packages=(redis cronsim valkey hatchling build unasyncd mypy opentelemetry-sdk
  pytest pytest-xdist pytest-timeout pytest-rerunfailures trustme celery fastapi uvicorn httpx django gunicorn)
# The same for clients/node is what its package-lock.json names.
node_packages=("package-lock.json $(cksum <"$root/clients/node/package-lock.json" | cut -d ' ' -f 1)")
# Other queues for Python, which may need other versions of redis-py.
peer_packages=('celery[redis]' 'dramatiq[redis]' taskiq taskiq-redis)

# Package registries are sometimes slow to answer.
retry() { "$@" || { sleep 5 && "$@"; } || { sleep 15 && "$@"; }; }

# once NAME PACKAGE...: runs install_NAME unless it has installed these packages before.
once() {
  local name=$1 dir=$clients/$1
  shift
  [[ ! -f $dir/installed || $(<"$dir/installed") != "$*" ]] || return 0
  say "Installing for $name: $(list "$@")"
  rm -rf "$dir"
  mkdir -p "$dir"
  if "install_$name" "$dir" "$@" >"$dir.log" 2>&1; then
    printf '%s' "$*" >"$dir/installed"
  elif [[ ${CI:-} == true ]]; then
    tail -n 20 "$dir.log" >&2
    die "the client libraries for $name could not be installed"
  else
    say "This failed (see $dir.log). The recipes for $name are not tested."
  fi
}

install_python() {
  python3 -m venv "$1" && retry "$1/bin/python" -m pip install --quiet "${@:2}"
}

install_peers() { install_python "$@"; }

install_node() {
  cp "$root"/clients/node/{package.json,package-lock.json,.npmrc} "$1"
  retry npm ci --prefix "$1" --loglevel error
}

wants() { [[ ${which:-$1} == "$1" ]]; }
which=${1:-}
if [[ $which == peers ]]; then once peers "${peer_packages[@]}"; fi
if wants python && have python3; then once python "${python_packages[@]}"; fi
if wants node && have node && have npm; then once node "${node_packages[@]}"; fi
