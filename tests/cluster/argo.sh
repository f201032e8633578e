#!/usr/bin/env bash
# Prints the path of the CustomResourceDefinition of Argo Rollouts as its project publishes it: a file of its Go module, fetched once.
set -euo pipefail

version=v1.8.3
kept=${XDG_CACHE_HOME:-$HOME/.cache}/mirrord-dev/argo-rollouts-$version
if [ ! -e "$kept/rollout-crd.yaml" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    GOMODCACHE=$work GOFLAGS=-modcacherw go mod download "github.com/argoproj/argo-rollouts@$version" >&2
    mkdir -p "$kept"
    cp "github.com/argoproj/argo-rollouts@$version/manifests/crds/rollout-crd.yaml" "$kept/rollout-crd.yaml.new"
    mv "$kept/rollout-crd.yaml.new" "$kept/rollout-crd.yaml"
fi
echo "$kept/rollout-crd.yaml"
