#!/usr/bin/env bash
# Starts one real Kubernetes node: etcd, API server, controller manager, scheduler, kubelet, kube-proxy and DNS out of one program
# (build.sh), on Debian's containerd, runc and CNI plugins. It lives in a network namespace and a mount namespace of its own.
#
#   tests/cluster/up.sh [IMAGE.tar…]        the images of test pods are there anyway; more: load.sh
#
# Needs root. Some 15 s. PROXY_MODE=nftables makes kube-proxy write nftables instead of iptables.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

die() { echo "up: $*" >&2; exit 1; }
# What the caller has open, a lock perhaps, is none of the daemons' business.
for fd in /proc/self/fd/*; do
    [ "${fd##*/}" -le 2 ] || eval "exec ${fd##*/}>&-"
done
[ "$(id -u)" = 0 ] || die "namespaces and cgroups need root: run it with sudo"
[ ! -e "$STATE" ] || die "a cluster is up on this machine, or half up; end it first: $CLUSTER/down.sh"
# The pods of another kubelet would be mixed up with ours, and killed by down.sh.
[ -z "$(find /sys/fs/cgroup -maxdepth 2 -name 'kubepods*' -print -quit)" ] || die "another kubelet has pods on this machine: one cluster at a time"
programs=$("$CLUSTER/build.sh")
images=$("$CLUSTER/images/build.sh" "$programs")
KUBE=$programs/kube
more=()
[ $# = 0 ] || mapfile -t more < <(realpath -e -- "$@")
[ ${#more[@]} = $# ] || die "there is no such image"

mkdir -p "$STATE"/{pki,log,pid,command,cni,etcd,lib,varlog,volume-plugins,sysctl}
chmod 700 "$STATE"
ln -s "$KUBE" "$STATE/kubectl"

# --- namespaces: the node and the developer's machine, one veth pair between them; the machine's own network is not touched
ip netns add "$NODE"
ip netns add "$DEV"
ip link add eth0 netns "$NODE" type veth peer name eth0 netns "$DEV"
ip -n "$NODE" addr add "$NODE_IP/24" dev eth0
ip -n "$DEV" addr add "$DEV_IP/24" dev eth0
for ns in "$NODE" "$DEV"; do
    ip -n "$ns" link set lo up
    ip -n "$ns" link set eth0 up
done
ip -n "$NODE" route add default via "$DEV_IP"       # kubelet and kube-proxy want a default route

# The node's own /run, /var/lib and /var/log, so that containerd's socket, the kubelet's folder and all others are where a real
# node has them. Mounts that the kubelet and containerd make are seen nowhere else, and go with the last process of the node.
setsid nsenter --net="/run/netns/$NODE" unshare --mount --propagation private sleep infinity </dev/null >/dev/null 2>&1 &
echo $! >"$STATE/pid/node"
for _ in $(seq 100); do
    [ "$(readlink "/proc/$(<"$STATE/pid/node")/ns/mnt")" = "$(readlink /proc/self/ns/mnt)" ] || break
    sleep 0.05
done
readlink "/proc/$(<"$STATE/pid/node")/ns/mnt" >"$STATE/mnt"
# The kubelet sets these for the whole machine; what it writes to are copies.
sysctls=(vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes)
for one in "${sysctls[@]}"; do
    cat "/proc/sys/$one" >"$STATE/sysctl/${one//\//.}"
done
in_node bash -euo pipefail -s -- "$STATE" "${sysctls[@]}" <<'SH'
mount --make-rshared /
mount -t tmpfs -o mode=755 node-run /run
mount --bind "$1/lib" /var/lib
mount --bind "$1/varlog" /var/log
for one in "${@:2}"; do mount --bind "$1/sysctl/${one//\//.}" "/proc/sys/$one"; done
sysctl -qw net.ipv4.ip_forward=1
SH

# --- keys, certificates, kubeconfigs
cd "$STATE/pki"
openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -x509 -new -key ca.key -days 30 -subj /CN=testcluster -out ca.crt
openssl ecparam -name prime256v1 -genkey -noout -out sa.key
openssl ec -in sa.key -pubout -out sa.pub 2>/dev/null
# Unused, but without it the controller manager and the scheduler log an error every 10 s.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout front-proxy-ca.key -days 30 -subj /CN=front-proxy \
    -out front-proxy-ca.crt 2>/dev/null
# certificate NAME SUBJECT [SUBJECTALTNAME]
certificate() {
    openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
    openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" 2>/dev/null \
        -extfile <(echo "extendedKeyUsage=serverAuth,clientAuth"; [ -z "${3:-}" ] || echo "subjectAltName=$3")
}
# client NAME SUBJECT [SUBJECTALTNAME]: a certificate, and a kubeconfig with it
client() {
    certificate "$@"
    cat >"$STATE/$1.kubeconfig" <<-Y
		apiVersion: v1
		kind: Config
		clusters: [{name: test, cluster: {server: "https://$NODE_IP:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
		users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
		contexts: [{name: test, context: {cluster: test, user: $1}}]
		current-context: test
	Y
}
names=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
certificate apiserver /CN=kube-apiserver "IP:$NODE_IP,IP:127.0.0.1,IP:10.96.0.1,$names"
client admin /O=system:masters/CN=admin
client kcm /CN=system:kube-controller-manager
client scheduler /CN=system:kube-scheduler
# The API server checks the kubelet's certificate against the node's address.
client kubelet /O=system:nodes/CN=system:node:node1 "IP:$NODE_IP,DNS:node1"
client proxy /CN=system:kube-proxy
# Somebody without any right but what a test's Role gives: user `developer`.
client developer /O=developers/CN=developer
cd "$STATE"

# --- container runtime
cat >containerd.toml <<Y
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true          # without CAP_SYS_RESOURCE runc dies: "can't get final child's PID from pipe: EOF"
  sandbox_image = "local/pause:1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$STATE/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
Y
# ptp, not bridge: each pod is a routed veth, so that a Service's answer cannot short-cut over a bridge past kube-proxy's NAT.
cat >cni/10-ptp.conflist <<Y
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": false, "mtu": 1500,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$PODS"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
Y
run() { "$CLUSTER/component.sh" start "$@"; }
run containerd containerd -c "$STATE/containerd.toml"

# --- control plane
run etcd "$KUBE" etcd --data-dir="$STATE/etcd" --unsafe-no-fsync --log-level=warn \
    --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 --listen-peer-urls=http://127.0.0.1:2380
run apiserver "$KUBE" kube-apiserver --etcd-servers=http://127.0.0.1:2379 \
    --advertise-address="$NODE_IP" --secure-port=6443 --cert-dir="$STATE/pki" --client-ca-file="$STATE/pki/ca.crt" \
    --tls-cert-file="$STATE/pki/apiserver.crt" --tls-private-key-file="$STATE/pki/apiserver.key" \
    --kubelet-client-certificate="$STATE/pki/admin.crt" --kubelet-client-key="$STATE/pki/admin.key" \
    --kubelet-certificate-authority="$STATE/pki/ca.crt" \
    --kubelet-preferred-address-types=InternalIP --service-cluster-ip-range="$SERVICES" \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-signing-key-file="$STATE/pki/sa.key" --service-account-key-file="$STATE/pki/sa.pub" \
    --requestheader-client-ca-file="$STATE/pki/front-proxy-ca.crt" --requestheader-allowed-names=front-proxy-client \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true --profiling=false

# wait_for SECONDS COMPONENT COMMAND…
wait_for() {
    local seconds=$1 component=$2 deadline=$((SECONDS + $1))
    shift 2
    while ! "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            tail -n 15 "$STATE/log/$component.log" >&2
            die "$component is not ready after $seconds s (logs: $STATE/log); then: $CLUSTER/down.sh"
        fi
        sleep 0.2
    done
}
wait_for 60 containerd in_node ctr version
"$CLUSTER/load.sh" "$images"/*.tar "${more[@]}"
wait_for 90 apiserver k get --raw /readyz
run kcm "$KUBE" kube-controller-manager --kubeconfig="$STATE/kcm.kubeconfig" \
    --authentication-kubeconfig="$STATE/kcm.kubeconfig" --authorization-kubeconfig="$STATE/kcm.kubeconfig" --cert-dir="$STATE/pki" \
    --leader-elect=false --use-service-account-credentials=true --service-account-private-key-file="$STATE/pki/sa.key" \
    --root-ca-file="$STATE/pki/ca.crt" --flex-volume-plugin-dir="$STATE/volume-plugins" \
    --cluster-signing-cert-file="$STATE/pki/ca.crt" --cluster-signing-key-file="$STATE/pki/ca.key"
run scheduler "$KUBE" kube-scheduler --kubeconfig="$STATE/scheduler.kubeconfig" \
    --authentication-kubeconfig="$STATE/scheduler.kubeconfig" --authorization-kubeconfig="$STATE/scheduler.kubeconfig" \
    --cert-dir="$STATE/pki" --leader-elect=false

# --- node
: >resolv.conf
cat >kubelet.yaml <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $STATE/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $STATE/pki/kubelet.crt
tlsPrivateKeyFile: $STATE/pki/kubelet.key
cgroupDriver: cgroupfs            # containerd 1.6 cannot tell the kubelet which one it uses
failCgroupV1: false               # true by default from 1.35 on
enforceNodeAllocatable: []
failSwapOn: false
clusterDNS: ["$DNS_IP"]
clusterDomain: cluster.local
resolvConf: $STATE/resolv.conf
volumePluginDir: $STATE/volume-plugins
imageGCHighThresholdPercent: 100  # 100 is never: containerd 1.6 does not pin the pause image, and a full disk would lose it
evictionHard: {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"}
syncFrequency: 10s
Y
run kubelet "$KUBE" kubelet --config="$STATE/kubelet.yaml" --kubeconfig="$STATE/kubelet.kubeconfig" \
    --cert-dir="$STATE/pki" --node-ip="$NODE_IP" --hostname-override=node1
cat >proxy.yaml <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $STATE/proxy.kubeconfig}
mode: ${PROXY_MODE:-iptables}
clusterCIDR: $PODS
hostnameOverride: node1
# nf_conntrack_max can be set in the machine's first network namespace only; 0 and 0s mean "leave alone"
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
Y
run proxy "$KUBE" kube-proxy --config="$STATE/proxy.yaml"
wait_for 60 kubelet k wait --for=condition=Ready node/node1 --timeout=1s
wait_for 30 kcm k get serviceaccount default
k apply -f "$CLUSTER/manifests/dns.yaml" >/dev/null
wait_for 60 kubelet k -n kube-system wait --for=condition=Available deployment/coredns --timeout=1s
echo "up: KUBECONFIG=$KUBECONFIG, which answers in the network namespace $DEV; . tests/cluster/env.sh; k get nodes" >&2
