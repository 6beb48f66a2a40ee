#!/usr/bin/env bash
# The package for Python: clients/python.
# Usage: scripts/python.sh all [SERVER...]    everything below, the tests on SERVER (default: $SERVER, or redis-server)
#        scripts/python.sh lint               generated code is fresh, mypy strict, sizes
#        scripts/python.sh build              wheel and sdist, installed into the environment of scripts/clients.sh
#        scripts/python.sh test [SERVER...]   the tests of the package and of examples/python, with the built wheel
#        scripts/python.sh bars [TASKS]       measures, beside other queues; fails if a bar is missed
#        scripts/python.sh generate           makes corral_client/_sync from corral_client/_aio
# Needs Python 3.11 or later. Without it, this says so and does nothing; with CI=true, that is an error.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
package=$root/clients/python
venv=$clients/python
bin=$venv/bin

# The generated code is made again elsewhere, and compared.
fresh() {
  local copy
  copy=$(mktemp -d)
  cp -R "$package/corral_client" "$package/pyproject.toml" "$copy"
  (cd "$copy" && "$bin/unasyncd" --quiet --force)
  if ! diff -r -x __pycache__ "$package/corral_client" "$copy/corral_client"; then
    rm -rf "$copy"
    die "corral_client/_sync is not fresh: run scripts/python.sh generate"
  fi
  rm -rf "$copy"
}

lint() {
  fresh
  cd "$package"
  "$bin/mypy"
  "$bin/mypy" --strict tests/typed.py
  "$bin/python" tests/rules.py
}

build() {
  rm -rf "$venv/dist"
  "$bin/python" -m build --no-isolation --outdir "$venv/dist" "$package" >"$venv/build.log" 2>&1 || {
    cat "$venv/build.log" >&2
    die "the package does not build"
  }
  "$bin/pip" install --quiet --no-deps --force-reinstall "$venv"/dist/*.whl
}

run_tests() {
  local servers=("$@") joined retries=0
  ((${#servers[@]} > 0)) || servers=("$server")
  need_module
  joined=$(IFS=:; printf '%s' "${servers[*]}")
  cd "$package"
  # A test that hangs is terminated. On a shared, noisy machine a failed test is retried once, and named.
  [[ ${CI:-} != true ]] || retries=1
  # From the tests' own directory: the wheel is imported, not the source.
  CORRAL_MODULE=$module CORRAL_TEST_SERVERS=$joined PYTHONDONTWRITEBYTECODE=1 \
    "$bin/python" -m pytest --numprocesses 4 --rootdir "$package" --import-mode=append \
    --timeout 240 --reruns "$retries" -q -rR tests
}

if ! have python3 || ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  [[ ${CI:-} != true ]] || die "Python 3.11 or later is missing"
  say "The package for Python needs Python 3.11 or later: its tests do not run."
  exit 0
fi
scripts="$(dirname "${BASH_SOURCE[0]}")"
"$scripts/clients.sh" python
[[ -f $venv/installed ]] || exit 0

case ${1:-} in
  all)
    (lint)
    build
    run_tests "${@:2}"
    ;;
  lint) lint ;;
  build) build ;;
  test)
    build
    run_tests "${@:2}"
    ;;
  bars)
    need_module
    "$scripts/clients.sh" peers
    build
    SERVER=$server CORRAL_MODULE=$module CORRAL_PEERS=$clients/peers/bin "$bin/python" "$root/scripts/python_bars.py" "${@:2}"
    ;;
  generate)
    cd "$package"
    "$bin/unasyncd"
    ;;
  *) die "expected one of: all, lint, build, test, bars, generate" ;;
esac
