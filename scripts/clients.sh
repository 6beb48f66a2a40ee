#!/usr/bin/env bash
# Installs the client libraries that the code in docs/ uses, for tests/recipes.rs: for Python and Node, where these are.
# They go to the cache directory, outside this checkout. Without a library, the tests that need it are skipped; with
# CI=true, a failed installation is an error. With the argument `package`, it installs what clients/python needs instead.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

python_packages=(redis celery pytest)
node_packages=(redis ioredis bullmq)
package_packages=(redis cronsim valkey hatchling build unasyncd mypy fastapi uvicorn django httpx opentelemetry-sdk
  pytest pytest-xdist pytest-timeout pytest-rerunfailures)

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

install_package-python() { install_python "$@"; }

install_node() {
  retry npm install --prefix "$1" --no-audit --no-fund --loglevel error "${@:2}"
}

if [[ ${1:-} == package ]]; then
  once package-python "${package_packages[@]}"
  exit
fi
if have python3; then once python "${python_packages[@]}"; fi
if have node && have npm; then once node "${node_packages[@]}"; fi
