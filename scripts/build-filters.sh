#!/usr/bin/env bash
# Builds every filter of examples/filters/ to OUT_DIR/NAME.wasm (default: target/filters).
#
#   scripts/build-filters.sh [--rust] [OUT_DIR [FOLDER]]      --rust: only those in Rust, so that no other language is installed
#                                                             FOLDER: instead of examples/filters
#
# This is the one place that knows how a Wasm filter is built. A folder's files tell its language: Cargo.toml, *.c, go.mod,
# package.json (AssemblyScript) or *.zig. A compiler that is missing is installed: Debian's clang and lld, Zig from PyPI and
# AssemblyScript from npm into ~/.cache/mirrord-dev. What has not changed is not built again.
#
# For Rust it is usually `cargo build --target wasm32-unknown-unknown`. Where rustup has no standard library for that target
# and cannot fetch one, Debian's own compiler does it (packages rustc-web, cargo-web, rust-web-src, rust-web-llvm, lld-22), by
# cli/templates/wasm-rust.sh, as in `mirrord filter build`: its standard library is compiled from its source once and kept in
# ~/.cache/mirrord-dev/wasm-sysroot/<compiler version>.
# A warm machine needs no network. Several runs at once wait for each other.
# MIRRORD_WASM_TOOLCHAIN=rustup or =debian forces one of the two.
set -euo pipefail

TRIPLE=wasm32-unknown-unknown
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ONLY_RUST=
if [ "${1:-}" = --rust ]; then
    ONLY_RUST=yes
    shift
fi
OUT=$(mkdir -p "${1:-$ROOT/target/filters}" && cd "${1:-$ROOT/target/filters}" && pwd)
FILTERS=$(cd "${2:-$ROOT/examples/filters}" && pwd)
BUILD=$ROOT/target/filters-build
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/mirrord-dev
SYSROOTS=$CACHE/wasm-sysroot
ZIG_VERSION=0.17.1
DEBIAN_PACKAGES=(rustc-web cargo-web rust-web-src rust-web-llvm lld-22)

say() { echo "build-filters: $*" >&2; }
die() { say "$*"; exit 1; }

# Called from a cargo test, the environment speaks of the other compiler and of the host's flags.
unset RUSTUP_TOOLCHAIN CARGO RUSTC RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER RUSTDOC RUSTFLAGS CARGO_ENCODED_RUSTFLAGS \
    CARGO_BUILD_TARGET CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR CARGO_BUILD_RUSTFLAGS

# Not `grep -q`, which would stop reading and let rustup fail on its next line.
rustup_has_target() { command -v rustup >/dev/null && rustup target list --installed 2>/dev/null | grep -x "$TRIPLE" >/dev/null; }
# The first attempt of a machine only: a mirror without that target answers at once, no network within the time limit.
rustup_can_add_target() { command -v rustup >/dev/null && timeout 60 rustup target add "$TRIPLE" >/dev/null 2>&1; }

debian_compiler_installed() {
    [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] && [ -d /usr/lib/rustlib/src/rust/library ] && command -v rust-lld >/dev/null
}
debian_sysroot() { echo "$SYSROOTS/$(/usr/bin/rustc -V | tr -c '[:alnum:].\n' '_')"; }

# install_packages WHAT-ELSE-TO-DO PACKAGE…
install_packages() {
    local otherwise=$1
    shift
    command -v apt-get >/dev/null || die "$otherwise"
    local sudo=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "as root, install: $*"
        sudo=(sudo)
    fi
    say "installing $* (once)"
    local apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    "${apt[@]}" update >&2 || say "apt-get update failed; trying with the package lists as they are"
    "${apt[@]}" install -y --no-install-recommends "$@" >/dev/null || die "apt-get could not install $*; $otherwise"
}

install_debian_compiler() {
    install_packages "run 'rustup target add $TRIPLE' where rustup can reach its server" "${DEBIAN_PACKAGES[@]}"
    debian_compiler_installed || die "the packages are installed, but /usr/bin/rustc, its source or rust-lld is missing"
}

# Renamed into place: a reader never sees half a file; left alone when equal, so that nothing depending on it is rebuilt.
place() { cmp -s "$1" "$2" || { cp "$1" "$2.$$" && mv "$2.$$" "$2"; }; }

build() {
    if [ ! -f "$FILTERS/Cargo.toml" ]; then die "no Cargo.toml in $FILTERS"; fi
    cd "$FILTERS"
    CARGO_TARGET_DIR=$BUILD "$@" build -q --locked --release --target "$TRIPLE" || die "a filter does not compile (see above)"
    local crate name built
    for crate in */Cargo.toml; do
        name=$(dirname "$crate")
        built=$BUILD/$TRIPLE/release/$(tr - _ <<<"$name").wasm
        [ -f "$built" ] || die "$FILTERS/$name built no $built: is its package called '$name', with crate-type cdylib?"
        place "$built" "$OUT/$name.wasm"
    done
}

# The other languages. Each function says with which compiler it builds (TOOL), or builds the folder it stands in to $1.
tool_c() {
    { command -v clang && command -v wasm-ld; } >/dev/null || install_packages "install clang and lld" clang lld
    TOOL=$(clang --version | head -n1)
}
# 16 KiB of stack, and no more memory than the file's variables need.
build_c() { clang --target=wasm32 -std=c17 -O2 -Wall -Wextra -Werror -nostdlib -Wl,--no-entry -Wl,--strip-debug -Wl,-z,stack-size=16384 -o "$1" ./*.c; }

tool_go() {
    command -v go >/dev/null || install_packages "install Go 1.24 or newer" golang-go
    TOOL=$(go version)
    # From 1.21 on, Go fetches the version that go.mod wants.
    local minor=${TOOL#go version go1.}
    [ "${minor%%[!0-9]*}" -ge 21 ] || die "$TOOL is too old for filters; install Go 1.24 or newer"
}
build_go() { GOOS=wasip1 GOARCH=wasm GOFLAGS="" GOTOOLCHAIN=auto go build -trimpath -buildmode=c-shared -ldflags=-s -o "$1" .; }

tool_zig() {
    TOOL=$CACHE/zig-$ZIG_VERSION/ziglang/zig
    [ ! -x "$TOOL" ] || return 0
    python3 -m pip --version >/dev/null 2>&1 || install_packages "install Python's pip" python3-pip
    say "installing Zig $ZIG_VERSION (once)"
    rm -rf "$CACHE/zig-$ZIG_VERSION.new"
    python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-deps --target "$CACHE/zig-$ZIG_VERSION.new" "ziglang==$ZIG_VERSION" >&2 ||
        die "pip could not install ziglang $ZIG_VERSION"
    mkdir -p "$CACHE" && rm -rf "$CACHE/zig-$ZIG_VERSION" && mv "$CACHE/zig-$ZIG_VERSION.new" "$CACHE/zig-$ZIG_VERSION"
}
build_zig() { "$TOOL" build-exe filter.zig -target wasm32-freestanding -O ReleaseSmall -fno-entry -rdynamic --cache-dir "$BUILD/zig" -femit-bin="$1"; }

# The versions are package.json's; the flags are those of its script, with another place for the result.
tool_assemblyscript() {
    local version sdk packages
    version=$(sed -n 's/.*"assemblyscript": "\(.*\)".*/\1/p' package.json)
    sdk=$(sed -n 's/.*"@solo-io\/proxy-runtime": "\([^"]*\)".*/\1/p' package.json)
    packages=("assemblyscript@$version")
    # A filter of ours needs no package; one of proxy-wasm its SDK.
    if [ -n "$sdk" ]; then
        packages+=("@solo-io/proxy-runtime@$sdk")
        version+="-proxy-$sdk"
    fi
    TOOL=$CACHE/assemblyscript-$version/node_modules/.bin/asc
    [ ! -x "$TOOL" ] || return 0
    command -v npm >/dev/null || install_packages "install Node 20 or newer, with npm" npm
    say "installing AssemblyScript $version (once)"
    rm -rf "$CACHE/assemblyscript-$version.new"
    npm install --silent --no-audit --no-fund --prefix "$CACHE/assemblyscript-$version.new" "${packages[@]}" >&2 ||
        die "npm could not install assemblyscript $version"
    rm -rf "$CACHE/assemblyscript-$version" && mv "$CACHE/assemblyscript-$version.new" "$CACHE/assemblyscript-$version"
}
build_assemblyscript() {
    local flags
    read -ra flags <<<"$(sed -n 's/.*"build": "asc assembly\/index.ts \(-b\|--outFile\) [^ ]* \(.*\)".*/\2/p' package.json)"
    # Old versions warn about their own library.
    "$TOOL" assembly/index.ts -o "$1" --path "$(dirname "$TOOL")/.." "${flags[@]}" --noColors 2>&1
}

language() {
    if [ -e "$1/Cargo.toml" ]; then echo rust
    elif [ -e "$1/go.mod" ]; then echo go
    elif [ -e "$1/package.json" ]; then echo assemblyscript
    elif compgen -G "$1/*.c" >/dev/null; then echo c
    elif compgen -G "$1/*.zig" >/dev/null; then echo zig
    else echo none; fi
}

build_others() {
    local folder name language stamp made=$BUILD/others
    mkdir -p "$made"
    for folder in "$FILTERS"/*/; do
        name=$(basename "$folder")
        language=$(language "$folder")
        case $language in
            rust) continue ;;
            none)
                # Cargo's, where somebody builds by hand.
                [ "$name" = target ] || die "$FILTERS/$name holds no Cargo.toml, go.mod, package.json, *.c or *.zig"
                continue
                ;;
        esac
        cd "$folder"
        "tool_$language"
        stamp=$({ echo "$TOOL"; declare -f "build_$language"; find . -type f -not -path './node_modules/*' -not -path './build/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum; } | sha256sum)
        if [ ! -f "$made/$name.wasm" ] || [ "$stamp" != "$(cat "$made/$name.stamp" 2>/dev/null)" ]; then
            rm -f "$made/$name.stamp"
            "build_$language" "$made/$name.wasm" >&2 || die "$FILTERS/$name does not compile (see above)"
            echo "$stamp" >"$made/$name.stamp"
        fi
        place "$made/$name.wasm" "$OUT/$name.wasm"
    done
}

mkdir -p "$BUILD"
exec 9>"$BUILD/.lock"
flock 9

build_with_rustup() { build cargo; }
build_with_debian() {
    debian_compiler_installed || install_debian_compiler
    build bash "$ROOT/cli/templates/wasm-rust.sh"
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
[ -n "$ONLY_RUST" ] || build_others
