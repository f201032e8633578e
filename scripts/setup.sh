#!/usr/bin/env bash
# Installs what building, testing, the demo and the benchmark use and this machine lacks. Changes nothing, and takes a
# moment, when all is there.
#
#   scripts/setup.sh [run|all|k8s]      run: only what the demo needs; all (default): the tests and the benchmark too;
#                                       k8s: what the test cluster needs (tests/cluster), and its tests
#
# Rust is not installed here: which toolchain a person uses is theirs to say. Filters need a compiler for Wasm, which
# scripts/build-filters.sh looks after.
set -euo pipefail

# Ordinary users of Debian do not have these in their path, but the programs are there.
PATH=$PATH:/usr/sbin:/sbin
RUST_WANTED=1.95

# A line each: the program (or file) that tells whether it is there, Debian's package, what uses it.
RUN='
gcc        gcc                      Rust links with it
/usr/include/stdlib.h libc6-dev     what gcc links with
ip         iproute2                 pod-like namespaces
nsenter    util-linux               pod-like namespaces
iptables   iptables                 the agent redirects ports with it
nginx      nginx                    the web server in the pod
curl       curl                     the client of the pod
python3    python3                  the program that you develop, in the demo
'
ALL=$RUN'
/usr/bin/python3 python3            tests: an interpreter that is no shell script
nft        nftables                 tests: rules before and after
node       nodejs                   tests: a server to preload
javac      default-jdk-headless     tests: a server to preload
g++        g++                      fuzzing: libFuzzer is compiled
wrk        wrk                      benchmark: the load
haproxy    haproxy                  tests: a server in the pod; benchmark: for comparison
strace     strace                   benchmark: system calls a request
valgrind   valgrind                 benchmark: where instructions go
h2load     nghttp2-client           tests: load of HTTP/2
redis-server redis-server           tests: a protocol that the gateway cannot read
redis-cli  redis-tools              tests: its client
/usr/lib/postgresql/*/bin/initdb postgresql      tests: a protocol that the gateway cannot read
psql       postgresql-client        tests: its client
sshd       openssh-server           tests: a server that speaks first
ssh-keyscan openssh-client          tests: its client
/usr/lib/python3/dist-packages/aiosmtpd/__init__.py python3-aiosmtpd tests: a server that speaks first
/usr/lib/python3/dist-packages/websockets/__init__.py python3-websockets tests: server and client of WebSocket
/usr/lib/python3/dist-packages/grpc/__init__.py python3-grpcio tests: server and client of gRPC
/usr/lib/python3/dist-packages/jsonschema/__init__.py python3-jsonschema tests: HAR files against their schema
go         golang-go                tests: builds the interoperability programs of gRPC
clang      clang                    tests: a filter in C
wasm-ld    lld                      tests: a filter in C
npm        npm                      tests: the compiler of a filter in AssemblyScript
pip3       python3-pip              tests: the compiler of a filter in Zig
slowhttptest slowhttptest           tests: slow heads and bodies
shellcheck shellcheck               lint
'

K8S=$RUN'
go         golang-go                the cluster: Kubernetes is built from its Go modules
containerd containerd               the cluster: runs the pods
runc       runc                     the cluster: runs the containers
/usr/lib/cni/ptp containernetworking-plugins     the cluster: the network of pods
conntrack  conntrack                the cluster: kube-proxy calls it
openssl    openssl                  the cluster: its certificates
/bin/busybox busybox-static         the cluster: images of pods
nft        nftables                 image of the agent, and rules before and after
jq         jq                       the cluster: answers of the API server
shellcheck shellcheck               lint
'

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

# command -v takes a path too, but wants it executable. A path may have a * where Debian puts a version.
is_there() { command -v "$1" >/dev/null || { [[ $1 == /* ]] && compgen -G "$1" >/dev/null; }; }

check_rust() {
    { command -v cargo && command -v rustc; } >/dev/null ||
        die "no Rust toolchain. Install rustup (your system's package of that name, or the Rust project's installer), then run: rustup default stable"
    local have
    have=$(rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n%s\n' "$RUST_WANTED" "$have" | sort -V | head -n1)" = "$RUST_WANTED" ] ||
        die "Rust $have is too old, $RUST_WANTED is needed. Run: rustup update stable"
}

# Debian starts a server as soon as its package is installed, and at each boot; nginx would take the machine's port 80.
# policy-rc.d says no to the first, `update-rc.d disable` to the second. What the machine had of either stays.
without_starting_services() {
    local policy=/usr/sbin/policy-rc.d status=0
    [ ! -e "$policy" ] || { "$@"; return; }
    # Also when interrupted: a policy left behind would keep every later service of this machine from starting.
    trap '"${root[@]}" rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
    "${root[@]}" chmod 755 "$policy"
    "$@" || status=$?
    "${root[@]}" rm -f "$policy"
    trap - EXIT
    return "$status"
}

install() {
    command -v apt-get >/dev/null || die "not a Debian or Ubuntu machine; install with your package manager what Debian calls: $*"
    root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "as root, run: apt-get install --no-install-recommends $*"
        say "sudo is needed to install Debian packages: $*"
        root=(sudo)
    fi
    local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    say "installing $*"
    "${apt[@]}" update >&2 || say "apt-get update failed; going on with the package lists as they are"
    without_starting_services "${apt[@]}" install -y --no-install-recommends "$@" >&2 ||
        die "apt-get could not install: $*"
    local service
    for service in nginx haproxy redis-server postgresql openssh-server; do
        # The one whose service is named otherwise.
        [[ " $* " != *" $service"* ]] || "${root[@]}" update-rc.d "${service/openssh-server/ssh}" disable >/dev/null 2>&1 || true
    done
    # It has no script of the old kind, which update-rc.d looks for.
    if [[ " $* " == *" containerd "* ]] && command -v systemctl >/dev/null; then "${root[@]}" systemctl disable containerd >/dev/null 2>&1 || true; fi
}

case ${1:-all} in
    run) wanted=$RUN ;;
    all) wanted=$ALL ;;
    k8s) wanted=$K8S ;;
    *) die "usage: scripts/setup.sh [run|all|k8s]" ;;
esac

check_rust
missing=()
while read -r program package _; do
    [ -z "$program" ] || is_there "$program" || missing+=("$package")
done <<<"$wanted"
if [ ${#missing[@]} -gt 0 ]; then
    install "${missing[@]}"
    while read -r program package _; do
        [ -z "$program" ] || is_there "$program" || die "package $package is installed, but there is no '$program'"
    done <<<"$wanted"
fi
