#!/usr/bin/env bash
# The programs in examples/go and examples/java. They are built into the directory `shop` of Cargo's target directory.
# Usage: scripts/examples.sh build    builds the programs whose languages are installed, for tests/examples.rs; checks that
#                                     the one in Go keeps to clients/vectors.json
#        scripts/examples.sh lint     format and lints
# Go needs redigo, and Java needs Gson, both where Debian's packages put them. Without them, this says so and does
# nothing; with CI=true, that is an error.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
built=${CARGO_TARGET_DIR:-$root/target}/shop
[[ $built == /* ]] || built=$PWD/$built
gson=/usr/share/java/gson.jar
export GO111MODULE=off GOPATH=/usr/share/gocode

has_go() { have go && [[ -d $GOPATH/src/github.com/gomodule/redigo ]]; }
has_java() { have javac && [[ -f $gson ]]; }

skip() {
  [[ ${CI:-} != true ]] || die "$1 is missing"
  say "Without $1, examples/$2 is not tested."
}

compile_java() { javac -encoding UTF-8 -Xlint:all,-serial,-try -Werror -cp "$gson" -d "$1" "$root"/examples/java/*.java; }

build() {
  rm -rf "$built"
  mkdir -p "$built/classes"
  if has_go; then (cd "$root/examples/go" && go test . && go build -o "$built/go" .); else skip "Go or redigo" go; fi
  if has_java; then
    compile_java "$built/classes"
    # The program is short-lived: the first compiler of the JVM is enough.
    printf '#!/bin/sh\nexec java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "%s:%s" Main "$@"\n' "$built/classes" "$gson" >"$built/java"
    chmod +x "$built/java"
  else
    skip "a JDK or Gson" java
  fi
}

lint() {
  local unformatted
  if has_go; then
    cd "$root/examples/go"
    unformatted=$(gofmt -l .)
    [[ -z $unformatted ]] || die "gofmt would change $unformatted"
    go vet .
  else
    skip "Go or redigo" go
  fi
}

case ${1:-} in
  build) build ;;
  lint) lint ;;
  *) die "expected one of: build, lint" ;;
esac
