#!/usr/bin/env bash
# Installs what is missing on this machine, and nothing that is there already.
# Usage: scripts/setup.sh [run|test|lint|matrix]...      (default: run)
#   run, test  what building the module and starting a server takes
#   lint       what building takes, and the linters
#   matrix     as test, and pip, which fetches some of the servers of scripts/servers.sh
# With apt-get it installs by itself; elsewhere it prints the command to type, and exits with 1.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

missing=() apt=() brew=() dnf=()
# lacks WHAT APT BREW DNF: notes one thing that is not there, and the packages that bring it.
lacks() {
  missing+=("$1")
  apt+=("$2") brew+=("$3") dnf+=("$4")
}

list() { printf '%s, ' "$@" | sed 's/, $//'; }

compiler_works() { printf '#include <stdio.h>\nint main(void) { return 0; }\n' | cc -x c -o /dev/null - 2>/dev/null; }

# The build makes Rust bindings of the module API through libclang, which also needs clang's own C headers. The places
# are those where the build looks; whoever sets LIBCLANG_PATH has chosen one already.
libclang_is_there() {
  local libraries=() headers=() dir
  [[ -z ${LIBCLANG_PATH:-} ]] || return 0
  for dir in /usr/lib/llvm*/lib /usr/lib /usr/lib64 /usr/lib/*-linux-gnu /usr/local/lib \
    /opt/homebrew/opt/llvm/lib /usr/local/opt/llvm/lib; do
    libraries+=("$dir"/libclang.{so,dylib}* "$dir"/libclang-[0-9]*.so*)
    headers+=("$dir"/clang/*/include/stddef.h)
  done
  any_exists "${libraries[@]}" && any_exists "${headers[@]}"
}
# A pattern that matches nothing stays as it is written, and is no file.
any_exists() {
  local path
  for path; do [[ ! -e $path ]] || return 0; done
  return 1
}

as_root() {
  if ((EUID == 0)); then
    "$@"
  else
    have sudo || die "installing needs root, and there is no sudo. As root: apt-get install ${apt[*]}"
    sudo "$@"
  fi
}

install_with_apt() {
  say "Installing: $(list "${missing[@]}")"
  as_root apt-get update || say "apt-get update failed; going on with the package lists that are there"
  # shellcheck disable=SC2068 # One entry may name two packages.
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends ${apt[@]} </dev/null
  # The package brings a service on port 6379, which nobody asked for. Where systemd runs it has been started.
  if [[ " ${apt[*]} " == *' redis-server '* && -d /run/systemd/system ]]; then
    say "Switching off the system service redis-server, which came with the package"
    as_root systemctl disable --now redis-server.service
  fi
}

print_what_to_install() {
  {
    say "Missing here: $(list "${missing[@]}")"
    say "There is no apt-get on this system. Please install by hand, then run this again:"
    say "  macOS:   brew install ${brew[*]}"
    say "  Fedora:  sudo dnf install ${dnf[*]}"
  } >&2
}

check_rust() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
  have cargo || die "cargo is missing: install Rust $wanted or later with rustup, https://www.rust-lang.org/tools/install"
  found=$(cargo --version | cut -d ' ' -f 2)
  printf '%s\n' "$wanted" "$found" | sort -V -C || die "Rust $found is too old, $wanted or later is needed: rustup update"
}

add_rust_component() {
  have rustup || die "cargo $2 is missing: install $1 from where Rust came from"
  rustup component add "$1"
}

(($# > 0)) || set -- run
for purpose; do
  [[ $purpose =~ ^(run|test|lint|matrix)$ ]] || die "unknown purpose '$purpose': one of run, test, lint, matrix"
done
wants() { [[ " $purposes " == *" $1 "* ]]; }
purposes=$*

compiler_works || lacks "C compiler" "gcc libc6-dev" gcc gcc
libclang_is_there || lacks libclang libclang-dev llvm clang-devel
have make || lacks make make make make
if wants run || wants test || wants matrix; then
  if ! have "$server"; then
    lacks "redis-server and redis-cli" redis-server redis redis
  elif ! have redis-cli; then
    lacks redis-cli redis-tools redis redis
  fi
fi
if wants lint && have apt-get; then
  # The lint checks the scripts only where shellcheck is there: nobody has to get it by hand.
  have shellcheck || lacks shellcheck shellcheck shellcheck ShellCheck
fi
if wants matrix; then
  python3 -m pip --version >/dev/null 2>&1 || lacks pip "python3 python3-pip" python python3-pip
fi

if ((${#missing[@]} > 0)); then
  if have apt-get; then
    install_with_apt
  else
    print_what_to_install
    exit 1
  fi
fi

check_rust
if wants lint; then
  cargo fmt --version >/dev/null 2>&1 || add_rust_component rustfmt fmt
  cargo clippy --version >/dev/null 2>&1 || add_rust_component clippy clippy
fi
