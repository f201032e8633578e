#!/usr/bin/env bash
# One of the cluster's programs: apiserver, etcd, kcm, scheduler, kubelet, proxy, containerd.
#
#   tests/cluster/component.sh start NAME COMMAND…      as up.sh does
#   tests/cluster/component.sh kill NAME                by SIGKILL, and waits for its end
#   tests/cluster/component.sh start NAME               again, as it was started before
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

action=$1 name=$2
shift 2
case $action in
    start)
        [ $# = 0 ] || printf '%s\0' "$@" >"$STATE/command/$name"
        mapfile -d '' -t command <"$STATE/command/$name"
        # Not by the function: what is started must be the daemon itself, by whose pid it is ended.
        setsid nsenter --target "$(<"$STATE/pid/node")" --net --mount -- "${command[@]}" </dev/null >>"$STATE/log/$name.log" 2>&1 &
        echo $! >"$STATE/pid/$name"
        ;;
    kill)
        pid=$(<"$STATE/pid/$name")
        kill -9 "$pid"
        while [ -e "/proc/$pid/exe" ] && readlink "/proc/$pid/exe" >/dev/null; do sleep 0.02; done
        ;;
    *) echo "component: no such action: $action" >&2; exit 1 ;;
esac
