#!/usr/bin/env bash
# The package for Node: clients/node.
# Usage: scripts/node.sh all [SERVER...]    everything below, the tests on SERVER (default: $SERVER, or redis-server)
#        scripts/node.sh lint               types, eslint, sizes
#        scripts/node.sh build              the package as a file, in the cache directory; checks what it exports
#        scripts/node.sh test [SERVER...]   the tests of the package and of examples/node, these with the built package
#        scripts/node.sh bars [TASKS]       measures; fails if a bar is missed
# Needs Node 20 or later and npm. Without them, this says so and does nothing; with CI=true, that is an error.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
package=$root/clients/node
cache=$clients/node
consumer=$cache/consumer

lint() {
  cd "$package"
  npx --no-install tsc --noEmit -p tsconfig.json
  npx --no-install eslint .
  node test/rules.mjs
}

# The built package is installed beside the packages that its tests, the pages and the examples need, as a user does it.
build() {
  cd "$package"
  node build.mjs
  npx --no-install publint --strict
  rm -rf "$consumer" "$cache/node_modules/corral-client"
  mkdir -p "$consumer" "$cache/node_modules/corral-client"
  printf '{ "private": true }\n' >"$consumer/package.json"
  npm pack --silent --pack-destination "$consumer" >/dev/null
  npx --no-install attw --profile node16 --no-emoji "$consumer"/corral-client-*.tgz >"$cache/attw.log" || {
    cat "$cache/attw.log" >&2
    die "the types of the package are wrong"
  }
  tar -xzf "$consumer"/corral-client-*.tgz -C "$cache/node_modules/corral-client" --strip-components 1
}

run_tests() {
  local servers=("$@") joined
  ((${#servers[@]} > 0)) || servers=("$server")
  need_module
  joined=$(IFS=:; printf '%s' "${servers[*]}")
  cd "$package"
  # With the package for Python, both are tested together.
  CORRAL_MODULE=$module CORRAL_TEST_SERVERS=$joined CORRAL_CONSUMER=$consumer CORRAL_PACKAGE_PYTHON=$(python_package) \
    npx --no-install vitest run
}

# The packages that the package for Python needs.
python_package() {
  if [[ -f $clients/python/installed ]]; then printf '%s' "$clients/python/bin/python"; fi
}

if ! have node || ! have npm || ! node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)'; then
  [[ ${CI:-} != true ]] || die "Node 20 or later, or npm, is missing"
  say "The package for Node needs Node 20 or later and npm: its tests do not run."
  exit 0
fi
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$scripts/clients.sh" node
[[ -f $cache/installed ]] || exit 0
if [[ ! -d $package/node_modules || -L $package/node_modules ]]; then ln -sfn "$cache/node_modules" "$package/node_modules"; fi

case ${1:-} in
  all)
    (lint)
    (build)
    run_tests "${@:2}"
    ;;
  lint) lint ;;
  build) build ;;
  test)
    (build)
    run_tests "${@:2}"
    ;;
  bars)
    need_module
    (build)
    status=0
    for part in queues processes; do
      SERVER=$server CORRAL_MODULE=$module node "$root/scripts/node_bars/$part.mjs" "${@:2}" || status=1
    done
    exit "$status"
    ;;
  *) die "expected one of: all, lint, build, test, bars" ;;
esac
