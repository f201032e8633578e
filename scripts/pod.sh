#!/usr/bin/env bash
# A pod without a cluster: a network namespace with nginx in it, and a second one whose processes are its clients.
# The two see each other over a veth pair and nothing else, so no address of this machine can clash with theirs.
#
#   scripts/pod.sh up NAME                  namespaces NAME and NAME-clients; nginx on port 80 of NAME
#   scripts/pod.sh curl NAME ARGUMENTS      curl as a client of the pod, which is called http://pod/
#   scripts/pod.sh down NAME                ends what runs in both and removes them; fine if there is nothing
#
# Needs root. What it keeps is /run/mirrord-pod/NAME, which `down` removes.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin
die() { echo "pod: $*" >&2; exit 1; }

[ $# -ge 2 ] || die "usage: scripts/pod.sh up|curl|down NAME (see the file's head)"
[ "$(id -u)" = 0 ] || die "network namespaces need root: run it with sudo"
action=$1 name=$2
shift 2
[[ $name =~ ^[a-z0-9][a-z0-9-]*$ ]] || die "a name is lower-case letters, digits and '-', not '$name'"
clients=$name-clients
dir=/run/mirrord-pod/$name

up() {
    [ ! -e "/run/netns/$name" ] || die "there is a namespace '$name' already: choose another name, or: scripts/pod.sh down $name"
    # 0755: nginx's workers, which are not root, write below it.
    mkdir -p "$dir"
    trap 'down' ERR
    ip netns add "$name"
    ip netns add "$clients"
    ip -n "$name" link add eth0 type veth peer name eth0 netns "$clients"
    local host=1 ns
    for ns in "$name" "$clients"; do
        ip -n "$ns" link set lo up
        ip -n "$ns" link set eth0 up
        ip -n "$ns" addr add "10.66.0.$host/24" dev eth0
        # nodad: usable at once, nobody else can have it.
        ip -n "$ns" addr add "fd66::$host/64" dev eth0 nodad
        host=$((host + 1))
    done
    cat >"$dir/nginx.conf" <<-CONF
		pid $dir/nginx.pid;
		error_log $dir/error.log;
		worker_processes 1;
		events {}
		http {
		    access_log off;
		    default_type text/plain;
		    client_body_temp_path $dir; proxy_temp_path $dir; fastcgi_temp_path $dir; uwsgi_temp_path $dir; scgi_temp_path $dir;
		    server {
		        listen 80;
		        listen [::]:80;
		        location / { return 200 "the pod, client \$remote_addr\n"; }
		    }
		}
	CONF
    # nginx tells of a wrong configuration only by its exit status, and returns once it listens.
    nsenter --net="/run/netns/$name" nginx -p "$dir" -c "$dir/nginx.conf" -e "$dir/error.log"
    trap - ERR
}

down() {
    trap - ERR
    local ns pids
    for ns in "$name" "$clients"; do
        [ -e "/run/netns/$ns" ] || continue
        pids=$(ip netns pids "$ns")
        # shellcheck disable=SC2086  # one word a pid
        [ -z "$pids" ] || kill $pids 2>/dev/null || true
        for _ in $(seq 100); do
            [ -n "$(ip netns pids "$ns")" ] || break
            sleep 0.05
        done
        pids=$(ip netns pids "$ns")
        # shellcheck disable=SC2086
        [ -z "$pids" ] || kill -9 $pids 2>/dev/null || true
        ip netns del "$ns"
    done
    rm -rf "$dir"
    rmdir --ignore-fail-on-non-empty /run/mirrord-pod 2>/dev/null || true
}

case $action in
    up) up ;;
    down) down ;;
    curl) exec nsenter --net="/run/netns/$clients" curl --resolve pod:80:10.66.0.1 -sS "$@" ;;
    *) die "no such action: $action" ;;
esac
