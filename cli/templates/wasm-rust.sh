# Builds a filter in Rust with Debian's compiler (packages rustc-web, cargo-web, rust-web-src, rust-web-llvm, lld-22), whose standard
# library for Wasm is compiled from its source once and kept. The arguments are cargo's.
set -euo pipefail
triple=wasm32-unknown-unknown
sysroot=${XDG_CACHE_HOME:-$HOME/.cache}/mirrord-dev/wasm-sysroot/$(/usr/bin/rustc -V | tr -c '[:alnum:].\n' '_')

if [ ! -d "$sysroot" ]; then
    echo "mirrord: compiling the standard library for $triple (once, about a minute)" >&2
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    printf '%s\n' '[package]' 'name = "empty"' 'version = "0.0.0"' 'edition = "2021"' '[lib]' 'path = "lib.rs"' \
        '[profile.release]' 'opt-level = 3' 'codegen-units = 1' '[workspace]' >"$work/Cargo.toml"
    echo '#![no_std]' >"$work/lib.rs"
    # RUSTC_BOOTSTRAP: build-std is a nightly option, and compiler and source here are of one version.
    (cd "$work" && RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Cembed-bitcode=yes CARGO_TARGET_DIR=$work/target \
        /usr/bin/cargo build -q --release --target "$triple" -Z build-std=std,panic_abort -Z build-std-features=)
    libs=$work/sysroot/lib/rustlib/$triple/lib
    mkdir -p "$libs" "$(dirname "$sysroot")"
    cp "$work/target/$triple/release/deps/"lib*.rlib "$libs/"
    rm -f "$libs"/libempty-*
    cp -r "$work/sysroot" "$sysroot.$$"
    # Another one may have been as quick.
    mv -T "$sysroot.$$" "$sysroot" 2>/dev/null || rm -rf "$sysroot.$$"
fi
RUSTC=/usr/bin/rustc RUSTFLAGS="--sysroot=$sysroot" /usr/bin/cargo "$@"
