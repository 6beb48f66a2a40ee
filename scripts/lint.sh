#!/usr/bin/env bash
# Format check and lints, of the Rust code and, where shellcheck is there, of the scripts.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"

cargo fmt --check
cargo clippy --all-targets -- -D warnings
if have shellcheck; then
  shellcheck --external-sources scripts/*.sh .ci/run
else
  say "shellcheck is not there: the scripts were not checked"
fi
