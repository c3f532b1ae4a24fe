#!/usr/bin/env bash
# What the checks need beside cargo: installed when missing, with the reason said. Sourced by tests/run, .ci/run and
# benches/compare; `tests/tools.sh [NAME…]` installs by hand. Asks nothing; fails when something cannot be had.
#
# Debian starts nginx and prometheus as services on installation; they would take ports 80 and 9090, so a
# policy-rc.d that forbids starting stands for the length of the installation, unless the machine has one already.

# NAME|COMMAND|PACKAGES|WHY
TOOLS="
cc|cc|gcc libc6-dev|links the binary and compiles aws-lc (TLS)
git|git|git|the tidy test reads the list of files
openssl|openssl|openssl|makes certificates, and speaks TLS as another program does
curl|curl|curl ca-certificates|asks the admin API and Prometheus
python3|python3|python3|runs tests/scenarios
wrk|wrk|wrk|the load of tests/scenarios
nginx|nginx|nginx-light|two real servers as the versions behind a split
prometheus|prometheus|prometheus|scrapes Weir; brings promtool
promtool|promtool|prometheus|checks the metrics' form
haproxy|haproxy|haproxy|a peer of benches/compare
h2load|h2load|nghttp2-client|speaks HTTP/2 to Weir as another program does, and is its load
nghttp|nghttp|nghttp2-client|the same, frame by frame
ip|ip|iproute2|brings up the network that a scenario makes for itself
nft|nft|nftables|drops packets in that network
unshare|unshare|util-linux|makes that network
faketime|faketime|faketime|a clock that jumps, for one process
"
# What tests/run needs; benches/compare asks for its own.
TEST_TOOLS="cc git openssl curl python3 wrk nginx prometheus promtool h2load nghttp ip nft unshare faketime"
# Clients that are Python packages: a folder for them, and what is in it.
SCENARIO_VENV=target/scenarios-venv
SCENARIO_PACKAGES=tests/scenarios/requirements.txt

have() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif have sudo; then sudo -n "$@"
  else echo "tools: not root and no sudo: cannot run: $*" >&2; return 1
  fi
}

# Debian's tools must not start what they install.
forbid_services() {
  [ -e /usr/sbin/policy-rc.d ] && return 0
  as_root sh -c 'printf "#!/bin/sh\nexit 101\n" > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d' && policy_is_ours=1
}
allow_services() {
  [ "${policy_is_ours:-0}" = 1 ] && as_root rm -f /usr/sbin/policy-rc.d
  policy_is_ours=0
}

apt_install() { # apt_install PACKAGE…
  local done=0
  forbid_services
  as_root env DEBIAN_FRONTEND=noninteractive sh -c \
    'apt-get update -qq && exec apt-get install -y -qq --no-install-recommends "$@"' sh "$@" </dev/null >"${TMPDIR:-/tmp}/weir-tools.log" 2>&1 || done=1
  allow_services
  return $done
}

# The Python of the scenarios, with the packages that they are clients by; made anew when their list has changed.
install_packages() {
  [ -x "$SCENARIO_VENV/bin/python" ] && cmp -s "$SCENARIO_PACKAGES" "$SCENARIO_VENV/installed.txt" && return 0
  echo "tools: making $SCENARIO_VENV with $(tr '\n' ' ' <"$SCENARIO_PACKAGES")(clients of the scenarios: gRPC, WebSocket and its cases, HTTP/2 by hand)"
  if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    echo "tools: python3-venv is missing (makes that folder): installing it"
    apt_install python3-venv || { tail -n 15 "${TMPDIR:-/tmp}/weir-tools.log" >&2; return 1; }
  fi
  mkdir -p "$(dirname "$SCENARIO_VENV")" && python3 -m venv --clear "$SCENARIO_VENV" \
    && "$SCENARIO_VENV/bin/python" -m pip install -q --disable-pip-version-check -r "$SCENARIO_PACKAGES" \
    && cp "$SCENARIO_PACKAGES" "$SCENARIO_VENV/installed.txt" && return 0
  echo "tools: $SCENARIO_VENV could not be made" >&2; return 1
}

# install_tools NAME…: returns 0 only if every command is there afterwards.
install_tools() {
  local missing="" packages="" name command wanted why failed=0
  while IFS='|' read -r name command wanted why; do
    [ -n "$name" ] || continue
    case " $* " in *" $name "*) ;; *) continue ;; esac
    have "$command" && continue
    echo "tools: $command is missing ($why): installing $wanted"
    missing="$missing $command"; packages="$packages $wanted"
  done <<<"$TOOLS"
  [ -n "$missing" ] || return 0
  if ! have apt-get; then
    echo "tools: this machine has no apt-get; install by hand:$missing" >&2; return 1
  fi
  # shellcheck disable=SC2086  # a list of names
  apt_install $packages || failed=1
  for command in $missing; do
    have "$command" || { echo "tools: $command could not be installed; the end of ${TMPDIR:-/tmp}/weir-tools.log:" >&2; failed=2; }
  done
  [ "$failed" = 0 ] || tail -n 15 "${TMPDIR:-/tmp}/weir-tools.log" >&2
  [ "$failed" = 2 ] && return 1
  return 0
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -u
  # shellcheck disable=SC2086  # a list of names
  if [ $# -gt 0 ]; then install_tools "$@"; else install_tools $TEST_TOOLS && cd "$(dirname "$0")/.." && install_packages; fi
fi
