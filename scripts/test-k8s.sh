#!/usr/bin/env bash
# Runs the tests that need a Kubernetes node, and the README's commands for a cluster, on one that is made for them (tests/cluster) and
# removed; the last line is `N passed, N failed`. A cluster that is up already is used, and stays.
#
#   scripts/test-k8s.sh [NAME OF A TEST…]        with names: only these tests
#
# With TEST_SECONDS=N the tests are ended N seconds from the start, and count as failed.
# An ordinary user's programs are compiled as that user; only the cluster and the test programs run under sudo.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/cluster/env.sh
CARGO=${CARGO:-cargo}
root=()
if [ "$(id -u)" != 0 ]; then
    echo "test-k8s: the cluster and the test programs run under sudo" >&2
    sudo -v
    # sudo would give them a PATH of its own, without the person's python.
    root=(sudo -E env "PATH=$PATH")
    triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${triple}_RUNNER=${root[*]}"
fi

log=$(mktemp)
finish() {
    local status=$?
    trap - EXIT
    trap '' TERM INT HUP
    [ -z "${ours:-}" ] || "${root[@]}" tests/cluster/down.sh || { echo "test-k8s: the cluster did not go" >&2; status=1; }
    # A run that broke before its first test counts as one failure.
    awk -v status="$status" '
        /^test result:/ { passed += $4; failed += $6 }
        /^readme: .* ok$/ { passed++ }
        /^readme: .* FAILED$/ { failed++ }
        END {
            if (status && !failed) failed = 1
            printf "\n%d passed, %d failed\n", passed, failed
            exit failed > 0
        }' "$log" || status=1
    rm -f "$log"
    exit "$status"
}
trap finish EXIT
trap 'exit 143' TERM INT HUP

# What takes long before the tests is not the tests' time.
"$CARGO" test --release --locked --workspace --features mirrord-tests/k8s --test k8s --no-run
scripts/image.sh archive
tests/cluster/images/build.sh "$(tests/cluster/build.sh)" >/dev/null
if [ ! -e "$STATE" ]; then
    ours=yes
    "${root[@]}" tests/cluster/up.sh "${CARGO_TARGET_DIR:-target}/images/agent.tar"
fi
broken=0
run() {
    local limited=()
    [ -z "${TEST_SECONDS:-}" ] || limited=(timeout --kill-after=20 $((TEST_SECONDS > SECONDS ? TEST_SECONDS - SECONDS : 1)))
    "${limited[@]}" "$@" 2>&1 | tee -a "$log" || broken=1
}
# A few at a time: each has pods of its own, on two processors.
run "$CARGO" test --release --locked --workspace --features mirrord-tests/k8s --test k8s -- --test-threads "${TEST_THREADS:-4}" "$@"
[ $# != 0 ] || run "${root[@]}" scripts/check-readme.py --cluster
[ "$broken" = 0 ]
