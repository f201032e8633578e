#!/usr/bin/env bash
# The images of test pods, made from what the machine has, and prints their folder. Once, and again when what they are made from changes.
#
#   tests/cluster/images/build.sh PROGRAMS      the folder that ../build.sh has printed
#
#   local/pause:1    what every pod starts with
#   local/shop:1     a web server that says which pod it is (shop.c)
#   local/sidecar:1  what a mesh's proxy does with the connections that it is given (sidecar.c)
#   local/tools:1    a shell, busybox, iptables and nft; it sleeps
#   local/coredns:1  the cluster's DNS
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
programs=${1:?the folder that tests/cluster/build.sh has printed}
out=${CARGO_TARGET_DIR:-$root/target}/cluster-images

made_from=("$here"/* "$root"/scripts/image.sh "$root"/scripts/image-archive.py "$programs/coredns")
if [ -e "$out/coredns.tar" ] && [ -z "$(find "${made_from[@]}" -newer "$out/coredns.tar" -print -quit)" ]; then
    echo "$out"
    exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work"/{pause,shop,sidecar,coredns}
pack() { "$root/scripts/image-archive.py" "$work/$1" "$out/$1.tar" "local/$1:1" "${@:2}"; }

for program in pause shop sidecar; do
    cc -O2 -static -s -Wall -Wextra -Werror -pthread -o "$work/$program/$program" "$here/$program.c"
    pack "$program" "/$program"
done

"$root/scripts/image.sh" firewall "$work/tools"
cp /bin/busybox "$work/tools/usr/bin/"
# What the firewall's programs are named, and busybox has a smaller one of, stays.
for applet in $(/bin/busybox --list); do
    [ -e "$work/tools/usr/bin/$applet" ] || [ -e "$work/tools/usr/sbin/$applet" ] || ln -s busybox "$work/tools/usr/bin/$applet"
done
pack tools /bin/sleep 2147483647

# Last, as its time is that of all.
cp "$programs/coredns" "$work/coredns/"
pack coredns /coredns
echo "$out"
