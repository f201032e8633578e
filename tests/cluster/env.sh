# shellcheck shell=bash disable=SC2034
# Sourced by the scripts of this folder, and by whoever wants `k`, `in_dev`, `in_node` and `in_pod` in a shell of theirs.
# One cluster at a time on a machine: they would share the cgroup /kubepods.

PATH=$PATH:/usr/sbin:/sbin
CLUSTER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
STATE=/var/tmp/mirrord-cluster      # all that is on disk: etcd, containerd, logs, keys
NODE=mirrord-node                   # the network namespace that is the node
DEV=mirrord-dev                     # a second one, the developer's machine: API server and node ports answer there, pods and Services do not
NODE_IP=10.200.0.1
DEV_IP=10.200.0.2
PODS=10.244.0.0/24
SERVICES=10.96.0.0/16
DNS_IP=10.96.0.10
KUBECONFIG=$STATE/admin.kubeconfig
export PATH KUBECONFIG

# On the node: its network, and its own /run, /var/lib and /var/log. Never by `ip netns exec`: that mounts /sys anew, without cgroups.
in_node() { nsenter --target "$(<"$STATE/pid/node")" --net --mount -- "$@"; }
# On the developer's machine.
in_dev() { nsenter --net="/run/netns/$DEV" -- "$@"; }
# kubectl there, as cluster administrator.
k() { in_dev "$STATE/kubectl" "$@"; }

# The pid of a process of a pod: NAMESPACE POD [CONTAINER].
pid_in_pod() {
    local id
    id=$(k -n "$1" get pod "$2" -o json | jq -r --arg name "${3:-}" \
        '[.status.containerStatuses[], .status.ephemeralContainerStatuses[]?] | map(select($name == "" or .name == $name))[0].containerID')
    find /sys/fs/cgroup -path "*/kubepods/*/${id#containerd://}/cgroup.procs" -exec head -n1 {} \; -quit
}
# In a pod's network namespace, with this machine's programs: NAMESPACE POD COMMAND…
in_pod() {
    local pid
    pid=$(pid_in_pod "$1" "$2")
    nsenter --net="/proc/$pid/ns/net" -- "${@:3}"
}
