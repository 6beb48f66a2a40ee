#!/usr/bin/env bash
# Installs the missing dependencies on this machine.
# Usage: scripts/setup.sh [run|test|lint|matrix]...      (default: run)
#   run        to build the module and start a server
#   test       as run, with redis_exporter and Prometheus if there is apt-get, and the libraries of scripts/clients.sh;
#              with CI=true also Go and a JDK
#   lint       to build the module and run the linters
#   matrix     as test, with pip, which fetches some of the servers of scripts/servers.sh
# With apt-get the script installs packages itself. Elsewhere it prints the commands to run and exits with 1.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

missing=() apt=() brew=() dnf=()
# lacks WHAT APT BREW DNF: notes a missing dependency and the packages that provide it.
lacks() {
  missing+=("$1")
  apt+=("$2") brew+=("$3") dnf+=("$4")
}

compiler_works() { printf '#include <stdio.h>\nint main(void) { return 0; }\n' | cc -x c -o /dev/null - 2>/dev/null; }

# The build generates Rust bindings of the module API with libclang, which also needs clang's C headers. These are the
# directories that the build searches, unless LIBCLANG_PATH is set.
libclang_is_installed() {
  local libraries=() headers=() dir
  [[ -z ${LIBCLANG_PATH:-} ]] || return 0
  for dir in /usr/lib/llvm*/lib /usr/lib /usr/lib64 /usr/lib/*-linux-gnu /usr/local/lib \
    /opt/homebrew/opt/llvm/lib /usr/local/opt/llvm/lib; do
    libraries+=("$dir"/libclang.{so,dylib}* "$dir"/libclang-[0-9]*.so*)
    headers+=("$dir"/clang/*/include/stddef.h)
  done
  any_exists "${libraries[@]}" && any_exists "${headers[@]}"
}
# A pattern without a match stays as written, which is not an existing file.
any_exists() {
  local path
  for path; do [[ ! -e $path ]] || return 0; done
  return 1
}

as_root() {
  if ((EUID == 0)); then
    "$@"
  else
    have sudo || die "the installation needs root, and sudo is missing. Run as root: apt-get install ${apt[*]}"
    sudo "$@"
  fi
}

install_with_apt() {
  say "Installing: $(list "${missing[@]}")"
  as_root apt-get update || say "apt-get update failed; continuing with the existing package lists"
  # shellcheck disable=SC2068 # One entry may name two packages.
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends ${apt[@]} </dev/null
  # These packages also install services, which systemd has started. Nothing here needs them.
  local service
  for service in redis-server prometheus prometheus-redis-exporter; do
    if [[ " ${apt[*]} " == *" $service "* && -d /run/systemd/system ]]; then
      say "Disabling the system service $service, which the package has installed"
      as_root systemctl disable --now "$service.service"
    fi
  done
}

print_install_commands() {
  {
    say "Missing: $(list "${missing[@]}")"
    say "This system has no apt-get. Install the packages manually, then run this script again:"
    say "  macOS:   brew install ${brew[*]}"
    say "  Fedora:  sudo dnf install ${dnf[*]}"
  } >&2
}

check_rust() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
  have cargo || die "cargo is missing: install Rust $wanted or later with rustup, https://www.rust-lang.org/tools/install"
  found=$(cargo --version | cut -d ' ' -f 2)
  printf '%s\n' "$wanted" "$found" | sort -V -C ||
    die "Rust $found is too old: version $wanted or later is required. Run: rustup update"
}

add_rust_component() {
  have rustup || die "cargo $2 is missing: install $1 from the source of your Rust installation"
  rustup component add "$1"
}

(($# > 0)) || set -- run
for purpose; do
  [[ $purpose =~ ^(run|test|lint|matrix)$ ]] || die "unknown purpose '$purpose': one of run, test, lint, matrix"
done
wants() { [[ " $purposes " == *" $1 "* ]]; }
purposes=$*

compiler_works || lacks "C compiler" "gcc libc6-dev" gcc gcc
libclang_is_installed || lacks libclang libclang-dev llvm clang-devel
have make || lacks make make make make
if wants run || wants test || wants matrix; then
  if ! have "$server"; then
    lacks "redis-server and redis-cli" redis-server redis redis
  elif ! have redis-cli; then
    lacks redis-cli redis-tools redis redis
  fi
fi
if wants lint && have apt-get; then
  # The linter of the scripts is optional, so it is installed only where that needs no manual step.
  have shellcheck || lacks shellcheck shellcheck shellcheck ShellCheck
fi
if { wants test || wants matrix; } && have apt-get; then
  # Optional as well: without these, tests/extras.rs checks less.
  have promtool || lacks Prometheus prometheus prometheus prometheus
  have prometheus-redis-exporter || have redis_exporter ||
    lacks redis_exporter prometheus-redis-exporter redis_exporter redis_exporter
fi
if { wants test || wants matrix; } && [[ ${CI:-} == true ]]; then
  # For the programs in examples/go and examples/java. Elsewhere these are tested only if their languages are there.
  { have go && [[ -d /usr/share/gocode/src/github.com/gomodule/redigo ]]; } ||
    lacks "Go with redigo" "golang-go golang-github-gomodule-redigo-dev" go golang
  { have javac && [[ -f /usr/share/java/gson.jar ]]; } ||
    lacks "a JDK with Gson" "default-jdk-headless libgoogle-gson-java" openjdk java-devel
fi
if wants matrix; then
  python3 -m pip --version >/dev/null 2>&1 || lacks pip "python3 python3-pip" python python3-pip
fi

if ((${#missing[@]} > 0)); then
  if have apt-get; then
    install_with_apt
  else
    print_install_commands
    exit 1
  fi
fi

check_rust
if wants lint; then
  cargo fmt --version >/dev/null 2>&1 || add_rust_component rustfmt fmt
  cargo clippy --version >/dev/null 2>&1 || add_rust_component clippy clippy
fi
if wants test || wants matrix; then "$root/scripts/clients.sh"; fi
