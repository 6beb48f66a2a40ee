#!/usr/bin/env bash
# The test suite.
# Usage: [SERVER=path] scripts/test.sh all     the unit tests, then the tests on one server
#        scripts/test.sh unit                  the unit tests and the check of the layers, which need no server
#        [SERVER=path] scripts/test.sh server  the integration tests and the scenarios on one server
#        [SERVER=path] scripts/test.sh quick   the same without the long files listed below
#        scripts/test.sh matrix [NAME...]      on the servers of scripts/servers.sh, one after the other
# All tests run even if some fail. With CORRAL_RETRIED=file, tests that passed only on a retry are listed in that file.
# The nextest profile `ci` retries tests.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"

# The oldest and the newest server of each product run all files. The other servers run the quick files: replies, stored
# data, propagation and waiting. They skip tests that take minutes and depend least on the server: clients and processes
# that are killed at random, random histories, the recipes of the documents, the examples.
oldest_and_newest=(redis-7.0 redis-8.10 valkey-8.0 valkey-9.1)
long_files=(cache_chaos lock_chaos task_chaos histories task_model recipes examples redlock fixtures)

is_one_of() {
  local word
  for word in "${@:2}"; do [[ $word != "$1" ]] || return 0; done
  return 1
}

# nextest runs tests of different files in parallel. Without it the same tests take longer.
run_tests() {
  local status=0
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run "$@" || status=$?
    note_retried
  else
    cargo test --no-fail-fast "$@" || status=$?
  fi
  return "$status"
}

# note_retried: adds the retried tests in the report of the last run to the list.
note_retried() {
  local report=${CARGO_TARGET_DIR:-target}/nextest/${NEXTEST_PROFILE:-default}/junit.xml
  [[ -n ${CORRAL_RETRIED:-} && -f $report ]] || return 0
  awk -v on="${server_name:-$(basename "$server")}" '
    function value(name) { match($0, " " name "=\"[^\"]*\""); return substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 4) }
    /<testcase / { test = value("classname") " " value("name") }
    /<flakyFailure/ && test != noted { noted = test; print "  " test " (" on ")" }' "$report" >>"$CORRAL_RETRIED"
  rm "$report"
}

# on_one_server [quick]
on_one_server() {
  local files=(--test '*') file status=0
  if [[ ${1:-} == quick ]]; then
    files=()
    for file in tests/*.rs; do
      file=$(basename "$file" .rs)
      is_one_of "$file" "${long_files[@]}" || files+=(--test "$file")
    done
  fi
  # tests/reentrancy.rs loads this second module.
  cargo build --quiet --example reentry || return 1
  # tests/examples.rs runs the programs in examples/.
  if [[ ${1:-} != quick ]]; then
    cargo build --quiet --example shop || return 1
    scripts/examples.sh build || return 1
  fi
  # tests/task_versions.rs loads version 0.1.0. Without its commit those tests do nothing.
  scripts/old_module.sh >/dev/null || (($? == 3)) || return 1
  say "${bold}Tests on $("$server" --version)${plain}"
  export CORRAL_MODULE=$module SERVER=$server
  if [[ -z ${CORRAL_PYTHON:-} && -f $clients/python/installed ]]; then
    # The pages and the examples use the package of this tree.
    scripts/python.sh build || return 1
    export CORRAL_PYTHON=$clients/python/bin/python
  fi
  if [[ -z ${CORRAL_NODE_PATH:-} && -f $clients/node/installed ]]; then
    scripts/node.sh build || return 1
    export CORRAL_NODE_PATH=$clients/node/node_modules
  fi
  run_tests "${files[@]}" || status=1
  scripts/test_all_modules.sh || status=1
  # The packages for Python and Node, on the oldest and the newest server.
  if [[ ${1:-} != quick ]] && is_one_of "${server_name:-redis-7.0}" redis-7.0 redis-8.10; then
    scripts/python.sh test || status=1
    scripts/node.sh test || status=1
  fi
  return "$status"
}

# Runs on all servers, continues after a failure, and prints a summary at the end.
on_every_server() {
  local status=0 summary='' found name path version which
  # Whether a missing server is a failure is decided by servers.sh. The other servers are tested anyway.
  if ! found=$(scripts/servers.sh "$@"); then
    summary="${red}FAILED${plain}  to get every server; see above"$'\n'
    status=1
  fi
  [[ -n $found ]] || die "there is no server to test on"
  while read -r name path version <&3; do
    which=quick
    if is_one_of "$name" "${oldest_and_newest[@]}"; then which=server; fi
    if SERVER=$path server_name=$name "${BASH_SOURCE[0]}" "$which"; then
      summary+="${green}passed${plain}  $name ($version)"
    else
      summary+="${red}FAILED${plain}  $name ($version)"
      status=1
    fi
    [[ $which == server ]] || summary+=", quick files only"
    summary+=$'\n'
  done 3<<<"$found"
  say ""
  printf %s "$summary"
  ((status == 0)) || die "not every server passed"
}

case ${1:-} in
  all)
    need_module
    status=0
    run_tests --lib || status=1
    on_one_server || status=1
    exit "$status"
    ;;
  unit)
    run_tests --lib --test layering
    ;;
  server)
    need_module
    on_one_server
    ;;
  quick)
    need_module
    on_one_server quick
    ;;
  matrix)
    need_module
    on_every_server "${@:2}"
    ;;
  *)
    die "expected one of: all, unit, server, quick, matrix"
    ;;
esac
