#!/usr/bin/env bash
# tests/cluster/gomod.sh 1.37.2: writes go.mod and go.sum for that Kubernetes version. Upstream's go.mod replaces its staging modules by
# local folders, which does not hold for importers; each is replaced by its published twin, v1.X.Y by v0.X.Y. The list grows with
# versions: it is taken from upstream's go.mod. A module that is missing shows as "k8s.io/...@v0.0.0: not available".
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
version=${1:?version of Kubernetes, without v}
mod=$(cd / && GO111MODULE=on go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
{
    printf 'module testcluster\n\n'
    grep '^go ' "$mod"
    printf '\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$version"
    sed -n "s,^\t\(k8s.io/[a-z-]*\) => ./staging.*,\t\1 => \1 v0.${version#1.},p" "$mod"
    echo ')'
} >go.mod
rm -f go.sum
go mod tidy
