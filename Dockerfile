# The agent's image: the agent, iptables and nft, the libraries of these, and nothing else, not even a shell. What it holds is said
# in scripts/image.sh, by which the tests make theirs too. Built from the repository's root, on either architecture for either:
#
#   docker build -t mirrord-agent .
#   docker build -t mirrord-agent --build-arg ARCH=arm64 .
#
# (`docker buildx build --platform linux/amd64,linux/arm64` says ARCH by itself.)
# For a target it needs CAP_NET_ADMIN and CAP_NET_RAW (rules), CAP_SYS_ADMIN (entering namespaces; not within the target's pod), CAP_SYS_PTRACE
# (finding them) and CAP_DAC_READ_SEARCH (the environment); without a target it runs as any user.

ARG ARCH=${TARGETARCH:-amd64}

# The compiler's own architecture is that of the machine that builds; it compiles for the other one.
FROM --platform=${BUILDPLATFORM:-linux} rust:1.95-slim-bookworm AS build
ARG ARCH
WORKDIR /src
# The tools come from the release that the image is based on: pinning their versions would only break later builds.
# hadolint ignore=DL3008
RUN case $ARCH in amd64) cpu=x86_64 ;; arm64) cpu=aarch64 ;; *) echo "no such ARCH: $ARCH" >&2; exit 1 ;; esac \
    && dpkg --add-architecture "$ARCH" \
    && apt-get update \
    && if [ "$ARCH" = "$(dpkg --print-architecture)" ]; then cross=; \
       else cross="gcc-$(echo $cpu | tr _ -)-linux-gnu libc6-dev-$ARCH-cross"; fi \
    && apt-get install -y --no-install-recommends gcc libc6-dev $cross "iptables:$ARCH" "nftables:$ARCH" \
    && rm -rf /var/lib/apt/lists/* \
    && rustup target add "$cpu-unknown-linux-gnu" \
    && echo "$cpu" >/cpu
COPY . .
RUN cpu=$(cat /cpu) && target=$cpu-unknown-linux-gnu \
    && export "CARGO_TARGET_$(echo "$target" | tr a-z- A-Z_)_LINKER=$cpu-linux-gnu-gcc" "CC_$(echo "$target" | tr - _)=$cpu-linux-gnu-gcc" \
    && cargo build --release --locked -p mirrord-agent --target "$target" \
    && scripts/image.sh root /image "target/$target/release/mirrord-agent"

FROM --platform=linux/${ARCH} scratch
COPY --from=build /image /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["/usr/local/bin/mirrord-agent"]
