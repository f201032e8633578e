#!/usr/bin/env bash
# Runs all tests and then the README's commands; the last line is `N passed, N failed`.
#
#   scripts/test.sh [ARGUMENTS OF cargo test]       with arguments: only the workspace's tests, narrowed by them
#
# Tests make network namespaces and firewall rules inside them, so they need root. An ordinary user's programs are
# compiled as that user; only the test programs run under sudo.
# With TEST_SECONDS=N all that still runs after N seconds is ended, counts as failed, and the last line is there all the same.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
CARGO=${CARGO:-cargo}

if [ "$(id -u)" != 0 ]; then
    echo "test: the test programs run under sudo: they make network namespaces, and iptables rules in those" >&2
    sudo -v
    triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    # sudo would give the tests a PATH of its own, without the person's python, node or java.
    export "CARGO_TARGET_${triple}_RUNNER=sudo -E env PATH=$PATH:/usr/sbin:/sbin"
fi
export PATH=$PATH:/usr/sbin:/sbin

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed_runs=0
limited=()
run() {
    # In a process group of its own, which is ended as a whole; so not where sudo may have to ask somebody.
    [ -z "${TEST_SECONDS:-}" ] || limited=(timeout --kill-after=20 $((TEST_SECONDS > SECONDS ? TEST_SECONDS - SECONDS : 1)))
    "${limited[@]}" "$@" 2>&1 | tee -a "$log" || failed_runs=$((failed_runs + 1))
}

run "$CARGO" test --release --locked --workspace --no-fail-fast "$@"
if [ $# = 0 ]; then
    # Signatures are a feature of the filters' crate that nothing of the workspace turns on.
    run "$CARGO" test --release --locked --no-fail-fast -p mirrord-filter-sdk --features jwt-verify jwt::
    # Filters are a workspace of their own and are tested as native code.
    run "$CARGO" test --release --locked --no-fail-fast --manifest-path examples/filters/Cargo.toml --target-dir target/filters-test
    # What fuzzing starts from, and what it once found; without its instrumentation.
    run "$CARGO" test --release --locked --no-fail-fast --manifest-path fuzz/Cargo.toml --target-dir target/fuzz-seeds
    run scripts/check-readme.py
fi

# A run that broke before its first test counts as one failure: a crate that does not compile must not read as "0 failed".
awk -v broken="$failed_runs" '
    /^test result:/              { passed += $4; failed += $6 }
    /^readme: .* ok$/            { passed++ }
    /^readme: .* FAILED$/        { failed++ }
    END {
        if (broken > failed) failed = broken
        printf "\n%d passed, %d failed\n", passed, failed
        exit failed > 0
    }' "$log"
