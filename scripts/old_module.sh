#!/usr/bin/env bash
# Builds version 0.1.0, whose commit scripts/baseline names, and prints the path of its library. The library is kept
# beside this one. Exits with status 3 if this clone does not have the commit.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"

commit=$(grep -v '^#' scripts/baseline)
dir=${CARGO_TARGET_DIR:-$root/target}/baseline
[[ $dir == /* ]] || dir=$PWD/$dir
library=$dir/$commit.$suffix
if [[ ! -f $library ]]; then
  git cat-file -e "$commit^{commit}" 2>/dev/null || {
    say "this clone does not have the commit $commit of version 0.1.0" >&2
    exit 3
  }
  # Several tests can get here at once. Each has a source of its own, and Cargo lets them build one after the other.
  mkdir -p "$dir"
  source=$(mktemp -d)
  trap 'rm -rf "$source"' EXIT
  git archive "$commit" | tar -x -C "$source"
  (cd "$source" && CARGO_TARGET_DIR=$dir/target CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    cargo build --release --quiet --lib >&2)
  cp "$dir/target/release/libcorral.$suffix" "$library.$$"
  chmod +x "$library.$$"
  mv "$library.$$" "$library"
fi
say "$library"
