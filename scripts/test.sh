#!/usr/bin/env bash
# The test suite.
# Usage: scripts/test.sh unit                  the unit tests, which need no server
#        [SERVER=path] scripts/test.sh server  the integration tests and the scenarios on one server
#        scripts/test.sh matrix [NAME...]      those on the servers of scripts/servers.sh, one after the other
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"

# nextest runs the tests of different files side by side; without it they take longer, and are the same.
run_tests() {
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run "$@"
  else
    cargo test "$@"
  fi
}

on_one_server() {
  say "${bold}Tests on $("$server" --version)${plain}"
  CORRAL_MODULE=$module SERVER=$server run_tests --test '*'
  CORRAL_MODULE=$module SERVER=$server scripts/test_all_modules.sh
}

# Runs on all servers, whatever fails on the way, and tells at the end.
on_every_server() {
  local status=0 summary='' found name path version
  # A server that cannot be had is a failure too; the others are tested all the same.
  if ! found=$(scripts/servers.sh "$@"); then
    summary="${red}FAILED${plain}  to bring every server; the reason is above"$'\n'
    status=1
  fi
  while read -r name path version <&3; do
    [[ -n $name ]] || continue
    if SERVER=$path "${BASH_SOURCE[0]}" server; then
      summary+="${green}passed${plain}  $name ($version)"$'\n'
    else
      summary+="${red}FAILED${plain}  $name ($version)"$'\n'
      status=1
    fi
  done 3<<<"$found"
  say ""
  printf %s "$summary"
  ((status == 0)) || die "not every server passed"
}

case ${1:-} in
  unit)
    run_tests --lib
    ;;
  server)
    need_module
    on_one_server
    ;;
  matrix)
    need_module
    on_every_server "${@:2}"
    ;;
  *)
    die "what to test: unit, server or matrix"
    ;;
esac
