#!/usr/bin/env bash
# The content of the agent's image: the agent, iptables and nft, their libraries and plugins, and nothing else; no shell either.
# The Dockerfile makes its image by `root`, the tests theirs by `archive`.
#
#   scripts/image.sh archive [OUT [AGENT]]   an archive that `ctr images import` and `docker load` take: mirrord-agent:VERSION
#   scripts/image.sh root DIR [AGENT]        only its files, in this folder
#   scripts/image.sh firewall DIR            only iptables and nft
#
# AGENT is target/release/mirrord-agent, OUT target/images/agent.tar, unless told otherwise. The tools come from this machine's
# packages (scripts/setup.sh k8s), for the architecture that the agent was compiled for. All is linked to one C library, that of
# the machine: the tools bring it anyway, and its allocator suits the agent better than that of a static one.
set -euo pipefail

die() { echo "image: $*" >&2; exit 1; }
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$project/target}
AGENT_PATH=/usr/local/bin/mirrord-agent

# What an ELF file is for: the name of its libraries' folder, which is also the prefix of its tools.
triple_of() {
    case $(readelf -h "$1" | sed -n 's/^ *Machine: *//p') in
        *X86-64) echo x86_64-linux-gnu ;;
        AArch64) echo aarch64-linux-gnu ;;
        *) die "$1 is for a machine that this script does not know" ;;
    esac
}

# libraries_of DIR TRIPLE FILE…: copies what the files are linked to, and what that is linked to, into DIR.
libraries_of() {
    local dir=$1 triple=$2 queue=("${@:3}") file name found
    while [ ${#queue[@]} -gt 0 ]; do
        file=${queue[0]}
        queue=("${queue[@]:1}")
        # The loader is no library of its own on all architectures, but the program's interpreter.
        name=$(readelf -l "$file" | sed -n 's/.*interpreter: \(.*\)]/\1/p')
        if [ -n "$name" ] && [ ! -e "$dir$name" ]; then
            mkdir -p "$dir/$(dirname "$name")"
            cp -L "$(loader "$triple" "$name")" "$dir$name"
        fi
        while read -r name; do
            # The loader lies where the programs say.
            [[ $name != ld-linux* ]] || continue
            [ ! -e "$dir/usr/lib/$triple/$name" ] || continue
            for found in "/usr/lib/$triple/$name" "/lib/$triple/$name" "/usr/$triple/lib/$name"; do
                [ ! -e "$found" ] || break
            done
            [ -e "$found" ] || die "$file needs $name, which is not on this machine"
            cp -L "$found" "$dir/usr/lib/$triple/$name"
            queue+=("$found")
        done < <(readelf -d "$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    done
}

# Where this machine has the loader of that architecture: its own at the very path, another one's below its libraries.
loader() {
    local found
    for found in "/usr/lib/$1/$(basename "$2")" "/lib/$1/$(basename "$2")" "/usr/$1$2" "$2"; do
        [ ! -e "$found" ] || { echo "$found"; return; }
    done
    die "there is no $2 on this machine"
}

# skeleton DIR: folders as Debian has them.
skeleton() {
    [ ! -e "$1/usr" ] || die "$1 is not empty"
    mkdir -p "$1"/{etc,proc,sys,dev,run,tmp,var,usr/{bin,sbin,lib,lib64,local/bin}}
    ln -s usr/bin usr/sbin usr/lib usr/lib64 "$1"
    ln -s ../run "$1/var/run"
    chmod 1777 "$1/tmp"
}

# firewall DIR TRIPLE: both variants of iptables, and nft.
firewall() {
    local dir=$1 triple=$2 variant family action tool
    mkdir -p "$dir/usr/lib/$triple"
    for tool in xtables-nft-multi xtables-legacy-multi nft; do
        [ -e "/usr/sbin/$tool" ] || die "there is no /usr/sbin/$tool; run: scripts/setup.sh k8s"
        [ "$(triple_of "/usr/sbin/$tool")" = "$triple" ] || die "/usr/sbin/$tool is not for $triple: install iptables and nftables for that"
        cp "/usr/sbin/$tool" "$dir/usr/sbin/"
    done
    # Without its plugin a rule cannot even be listed, so also those that only others' rules use.
    cp -r "/usr/lib/$triple/xtables" "$dir/usr/lib/$triple/"
    libraries_of "$dir" "$triple" "$dir"/usr/sbin/* "$dir/usr/lib/$triple"/xtables/*.so
    for family in iptables ip6tables; do
        for action in '' -save -restore; do
            for variant in legacy nft; do
                ln -s "xtables-$variant-multi" "$dir/usr/sbin/$family-$variant$action"
            done
            ln -s xtables-nft-multi "$dir/usr/sbin/$family$action"
        done
    done
}

# root DIR AGENT
root() {
    local dir=$1 agent=$2 triple strip
    [ -x "$agent" ] || die "there is no $agent; run: make build"
    triple=$(triple_of "$agent")
    skeleton "$dir"
    firewall "$dir" "$triple"
    strip=$(command -v "$triple-strip" || command -v strip) || die "there is no strip; install binutils"
    "$strip" -o "$dir$AGENT_PATH" "$agent"
    chmod 755 "$dir$AGENT_PATH"
    libraries_of "$dir" "$triple" "$dir$AGENT_PATH"
}

action=${1:-archive}
shift || true
case $action in
    root)
        [ $# -ge 1 ] || die "usage: scripts/image.sh root DIR [AGENT]"
        root "$1" "${2:-$target/release/mirrord-agent}"
        ;;
    firewall)
        [ $# = 1 ] || die "usage: scripts/image.sh firewall DIR"
        skeleton "$1"
        firewall "$1" "$(triple_of "$(command -v bash)")"
        ;;
    archive)
        out=${1:-$target/images/agent.tar} agent=${2:-$target/release/mirrord-agent}
        version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$project/Cargo.toml")
        work=$(mktemp -d)
        trap 'rm -rf "$work"' EXIT
        root "$work" "$agent"
        mkdir -p "$(dirname "$out")"
        architecture=amd64
        [ "$(triple_of "$agent")" = x86_64-linux-gnu ] || architecture=arm64
        "$project/scripts/image-archive.py" --architecture "$architecture" "$work" "$out" "mirrord-agent:$version" "$AGENT_PATH"
        echo "image: mirrord-agent:$version, $(du -sm --apparent-size "$work" | cut -f1) MiB, of it the agent" \
            "$(du -sm --apparent-size "$work$AGENT_PATH" | cut -f1) MiB: $out" >&2
        ;;
    *) die "no such action: $action (see the file's head)" ;;
esac
