#!/usr/bin/env bash
# Builds every filter of examples/filters/ to OUT_DIR/NAME.wasm (default: target/filters).
#
#   scripts/build-filters.sh [OUT_DIR]
#
# This is the one place that knows how a Wasm filter is built. Usually that is `cargo build --target
# wasm32-unknown-unknown`. Where rustup has no standard library for that target and cannot fetch one, Debian's own
# compiler does it (packages rustc-web, cargo-web, rust-web-src, rust-web-llvm, lld-22): its standard library is
# compiled from its source once and kept in ~/.cache/mirrord-dev/wasm-sysroot/<compiler version>.
# A warm machine needs no network. Several runs at once wait for each other.
# MIRRORD_WASM_TOOLCHAIN=rustup or =debian forces one of the two.
set -euo pipefail

TRIPLE=wasm32-unknown-unknown
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
OUT=$(mkdir -p "${1:-$ROOT/target/filters}" && cd "${1:-$ROOT/target/filters}" && pwd)
BUILD=$ROOT/target/filters-build
SYSROOTS=${XDG_CACHE_HOME:-$HOME/.cache}/mirrord-dev/wasm-sysroot
DEBIAN_PACKAGES=(rustc-web cargo-web rust-web-src rust-web-llvm lld-22)

say() { echo "build-filters: $*" >&2; }
die() { say "$*"; exit 1; }

# Called from a cargo test, the environment speaks of the other compiler and of the host's flags.
unset RUSTUP_TOOLCHAIN CARGO RUSTC RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER RUSTDOC RUSTFLAGS CARGO_ENCODED_RUSTFLAGS \
    CARGO_BUILD_TARGET CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR CARGO_BUILD_RUSTFLAGS

rustup_has_target() { command -v rustup >/dev/null && rustup target list --installed 2>/dev/null | grep -qx "$TRIPLE"; }
# The first attempt of a machine only: a mirror without that target answers at once, no network within the time limit.
rustup_can_add_target() { command -v rustup >/dev/null && timeout 60 rustup target add "$TRIPLE" >/dev/null 2>&1; }

debian_compiler_installed() {
    [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] && [ -d /usr/lib/rustlib/src/rust/library ] && command -v rust-lld >/dev/null
}
debian_sysroot() { echo "$SYSROOTS/$(/usr/bin/rustc -V | tr -c '[:alnum:].\n' '_')"; }

install_debian_compiler() {
    command -v apt-get >/dev/null || die "no standard library for $TRIPLE: run 'rustup target add $TRIPLE'"
    local sudo=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "as root, install: ${DEBIAN_PACKAGES[*]}"
        sudo=(sudo)
    fi
    say "installing ${DEBIAN_PACKAGES[*]} (once)"
    local apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    "${apt[@]}" update >&2 || say "apt-get update failed; trying with the package lists as they are"
    "${apt[@]}" install -y --no-install-recommends "${DEBIAN_PACKAGES[@]}" >/dev/null ||
        die "apt-get could not install ${DEBIAN_PACKAGES[*]}; or run 'rustup target add $TRIPLE' where rustup can reach its server"
    debian_compiler_installed || die "the packages are installed, but /usr/bin/rustc, its source or rust-lld is missing"
}

# Compiles std for the target into $1. An interrupted run leaves nothing that looks finished.
build_sysroot() {
    local sysroot=$1 work
    say "compiling the standard library for $TRIPLE with $(/usr/bin/rustc -V) (once, about a minute)"
    work=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    # An empty crate whose dependencies are all that is wanted.
    cat >"$work/Cargo.toml" <<-'TOML'
		[package]
		name = "empty"
		version = "0.0.0"
		edition = "2021"
		[lib]
		path = "lib.rs"
		[profile.release]
		opt-level = 3
		codegen-units = 1
		[workspace]
	TOML
    echo '#![no_std]' >"$work/lib.rs"
    # RUSTC_BOOTSTRAP: build-std is a nightly option, and compiler and source here are of one version.
    # Bitcode, so that filters can link with LTO.
    (cd "$work" && RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Cembed-bitcode=yes CARGO_TARGET_DIR=$work/target \
        /usr/bin/cargo build -q --release --target "$TRIPLE" -Z build-std=std,panic_abort -Z build-std-features=) ||
        die "could not compile the standard library for $TRIPLE (see above)"
    local libs=$work/sysroot/lib/rustlib/$TRIPLE/lib
    mkdir -p "$libs" "$(dirname "$sysroot")"
    cp "$work/target/$TRIPLE/release/deps/"lib*.rlib "$libs/"
    rm -f "$libs"/libempty-*
    rm -rf "$sysroot"
    cp -r "$work/sysroot" "$sysroot.new" && mv "$sysroot.new" "$sysroot"
}

build() {
    if [ ! -f "$ROOT/examples/filters/Cargo.toml" ]; then die "no examples/filters/Cargo.toml below $ROOT"; fi
    cd "$ROOT/examples/filters"
    CARGO_TARGET_DIR=$BUILD "$@" build -q --locked --release --target "$TRIPLE" || die "a filter does not compile (see above)"
    local crate name built
    for crate in */Cargo.toml; do
        name=$(dirname "$crate")
        built=$BUILD/$TRIPLE/release/$(tr - _ <<<"$name").wasm
        [ -f "$built" ] || die "examples/filters/$name built no $built: is its package called '$name', with crate-type cdylib?"
        # Renamed into place: a reader never sees half a file; left alone when equal, so that nothing depending on it is rebuilt.
        cmp -s "$built" "$OUT/$name.wasm" || { cp "$built" "$OUT/.$name.wasm.$$" && mv "$OUT/.$name.wasm.$$" "$OUT/$name.wasm"; }
    done
}

mkdir -p "$BUILD"
exec 9>"$BUILD/.lock"
flock 9

build_with_rustup() { build cargo; }
build_with_debian() {
    debian_compiler_installed || install_debian_compiler
    local sysroot
    sysroot=$(debian_sysroot)
    [ -d "$sysroot" ] || build_sysroot "$sysroot"
    RUSTC=/usr/bin/rustc RUSTFLAGS="--sysroot=$sysroot" build /usr/bin/cargo
}

case ${MIRRORD_WASM_TOOLCHAIN:-} in
rustup)
    rustup_has_target || rustup_can_add_target || die "rustup cannot add the target $TRIPLE"
    build_with_rustup
    ;;
debian) build_with_debian ;;
"")
    # What is ready first, then what has to be fetched.
    if rustup_has_target; then
        build_with_rustup
    elif debian_compiler_installed && [ -d "$(debian_sysroot)" ]; then
        build_with_debian
    elif rustup_can_add_target; then
        build_with_rustup
    else
        build_with_debian
    fi
    ;;
*) die "MIRRORD_WASM_TOOLCHAIN is '$MIRRORD_WASM_TOOLCHAIN'; it can be rustup or debian" ;;
esac
