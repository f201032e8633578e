#!/usr/bin/env bash
# Ends all that up.sh and the cluster's pods have started, and leaves nothing. Fine after a failed up.sh, or when nothing is up.
# All state is thrown away, so everything is killed and not asked (the API server alone would take 15 s to end).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

[ -e "$STATE" ] || exit 0       # nothing of ours
[ "$(id -u)" = 0 ] || { echo "down: needs root: run it with sudo" >&2; exit 1; }

# Not gone before its end is complete; a zombie is.
gone() {
    local pid status
    for pid; do
        while status=$(sed -n 's/^State:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null) && [ -n "$status" ] && [ "${status:0:1}" != Z ]; do
            sleep 0.02
        done
    done
}
# The processes of the node: daemons, and containerd's shims, which outlive it by design. A namespace's number may be used again
# when it has gone, so the program must be one of ours too.
of_node() {
    local ns proc
    ns=$(cat "$STATE/mnt" 2>/dev/null) || return 0
    for proc in /proc/[0-9]*; do
        [ "$(readlink "$proc/ns/mnt" 2>/dev/null || true)" = "$ns" ] || continue
        case $(readlink "$proc/exe" 2>/dev/null || true) in
            */kube | */containerd | */containerd-shim* | */runc | */sleep | */cni/* | *tables*) echo "${proc#/proc/}" ;;
        esac
    done
}
pods() { find /sys/fs/cgroup -path '*/kubepods/*' -name cgroup.procs -exec cat {} + 2>/dev/null | sort -un || true; }

# Whoever would start a pod again first, then the pods, then again what one of them has left at that moment.
for _ in 1 2 3; do
    for list in of_node pods; do
        mapfile -t pids < <($list)
        [ ${#pids[@]} -eq 0 ] || { kill -9 "${pids[@]}" 2>/dev/null || true; gone "${pids[@]}"; }
    done
done

# Each hierarchy has its own; deepest first. A cgroup whose last process has just ended may be busy for a moment.
for _ in $(seq 50); do
    mapfile -t groups < <(find /sys/fs/cgroup -depth -type d -path '*/kubepods*' 2>/dev/null)
    [ ${#groups[@]} -gt 0 ] || break
    rmdir "${groups[@]}" 2>/dev/null || sleep 0.1
done
# The veth pair, rules and routes go with them; mounts have gone with the node's last process.
for ns in "$NODE" "$DEV"; do
    [ ! -e "/run/netns/$ns" ] || ip netns del "$ns"
done
rm -rf "$STATE"
