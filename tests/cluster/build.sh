#!/usr/bin/env bash
# Builds what the cluster is made of, `kube` and `coredns`, from the official Go modules, and prints the folder that holds them.
# That folder is named for what they are made from, so they are built once: some 12 minutes on two free cores, 25 on busy ones.
# Go's caches for it (5.6 GB) are removed when it is done; a build that was interrupted goes on where it stopped.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kept=${XDG_CACHE_HOME:-$HOME/.cache}/mirrord-dev
key=$(cd "$here" && cat go.mod go.sum main.go dns/go.mod dns/go.sum dns/main.go | sha256sum | cut -c1-16)
out=$kept/kube-$key

if [ ! -e "$out" ]; then
    mkdir -p "$kept"
    exec 9>"$kept/kube.lock"
    flock -n 9 || { echo "build: another one is at it; waiting" >&2; flock 9; }
fi
# Looked at again, as the one that held the lock may have built it.
if [ ! -e "$out" ]; then
    PATH=$PATH:/usr/local/go/bin
    command -v go >/dev/null || { echo "build: there is no Go; run: scripts/setup.sh k8s" >&2; exit 1; }
    work=$kept/kube-$key.work
    mkdir -p "$work/out"
    version=$(sed -n 's,.*k8s.io/kubernetes \(v[0-9.]*\)$,\1,p' "$here/go.mod" | head -n1)
    minor=${version#v1.}
    minor=${minor%%.*}
    # Without these the components call themselves v0.0.0-master, and kubectl refuses to talk to the API server.
    p=k8s.io/component-base/version
    stamp="-X $p.gitVersion=$version -X $p.gitMajor=1 -X $p.gitMinor=$minor -X $p.gitTreeState=clean"
    export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -modcacherw" GOCACHE=$work/cache GOMODCACHE=$work/modules
    # A distribution's Go may be older than what Kubernetes wants; Go's releases are modules too, which any Go can fetch.
    wanted=$(sed -n 's/^go //p' "$here/go.mod")
    have=$(go env GOVERSION)
    if [ "$(printf '%s\n%s\n' "$wanted" "${have#go}" | sort -V | head -n1)" != "$wanted" ]; then
        release=golang.org/toolchain@v0.0.1-go$wanted.$(go env GOOS)-$(go env GOARCH)
        (cd "$work" && GOFLAGS=-modcacherw go mod download "$release") >&2
        chmod +x "$GOMODCACHE/$release"/bin/* "$GOMODCACHE/$release"/pkg/tool/*/*
        PATH=$GOMODCACHE/$release/bin:$PATH
    fi
    echo "build: Kubernetes $version, once; this takes 12 to 25 minutes" >&2
    (cd "$here" && go build -p "${JOBS:-2}" -o "$work/out/kube" -ldflags "-s -w $stamp" .) >&2
    (cd "$here/dns" && go build -p "${JOBS:-2}" -o "$work/out/coredns" -ldflags "-s -w" .) >&2
    mv "$work/out" "$out"
    # Those of other versions, and what their builds left.
    find "$kept" -maxdepth 1 -name 'kube-*' ! -path "$out" -exec rm -rf {} +
fi
echo "$out"
