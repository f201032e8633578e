#!/usr/bin/env bash
# Formatting, clippy and shellcheck over everything; the first finding fails.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
CARGO=${CARGO:-cargo}

"$CARGO" fmt --all --check
"$CARGO" clippy --release --locked --workspace --features mirrord-tests/k8s --all-targets -- -D warnings
"$CARGO" clippy --release --locked -p mirrord-filter-sdk --features jwt-verify --all-targets -- -D warnings
# Filters are compiled for Wasm by whichever compiler can (scripts/build-filters.sh); as native code they are linted here.
"$CARGO" fmt --manifest-path examples/filters/Cargo.toml --all --check
"$CARGO" clippy --release --locked --manifest-path examples/filters/Cargo.toml --target-dir target/filters-test --all-targets -- -D warnings
# The fuzzer mounts the product's files, which clippy has seen.
"$CARGO" fmt --manifest-path fuzz/Cargo.toml --check

mapfile -t scripts < <(grep -lE '^#!.*\b(ba)?sh$' .ci/* scripts/* bench/* tests/cluster/* tests/cluster/images/* 2>/dev/null)
shellcheck -x "${scripts[@]}"
echo "lint: ok"
