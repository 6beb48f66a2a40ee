#!/usr/bin/env bash
# Checks the format and the lints of the Rust code, the packages for Python and Node and the example in Go if these
# languages are installed, and the scripts if there is shellcheck.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"

cargo fmt --check
cargo clippy --all-targets -- -D warnings
scripts/python.sh lint
scripts/node.sh lint
scripts/examples.sh lint
if have shellcheck; then
  shellcheck --external-sources scripts/*.sh .ci/run
else
  say "shellcheck is not installed: the scripts were not checked"
fi
