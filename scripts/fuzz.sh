#!/usr/bin/env bash
# Runs random commands against a server with the module. See tests/fuzz/run.rs.
# Usage: [SECONDS=60] [SEED=n] [SERVER=path] scripts/fuzz.sh    on one server
#        [SECONDS=60] [SEED=n] scripts/fuzz.sh NAME...          on these servers of scripts/servers.sh, in turn
set -euo pipefail
# SECONDS is a bash variable: it keeps counting from its initial value.
length=$((SECONDS > 0 ? SECONDS : 60))
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"
program=${CARGO_TARGET_DIR:-target}/release/examples/fuzz

# fuzz SERVER: a finding of AddressSanitizer aborts the server, and with it the run. An allocation that is too large may
# fail without a finding.
fuzz() {
  say "${bold}Random commands for $length s on $("$1" --version)${plain}"
  SECONDS=$length CORRAL_MODULE=$module SERVER=$1 ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0:allocator_may_return_null=1} "$program"
}

need_module
[[ -x $program ]] || die "$program is missing: run 'make fuzz', or 'cargo build --release --example fuzz'"
if (($# == 0)); then
  fuzz "$server"
  exit
fi
status=0
for name; do
  # The output is a line `NAME PATH VERSION`.
  if found=$(scripts/servers.sh "$name") && read -r _ path _ <<<"$found" && fuzz "$path"; then
    say "${green}passed${plain}  $name"
  else
    say "${red}FAILED${plain}  $name"
    status=1
  fi
done
exit "$status"
