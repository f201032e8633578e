# The agent's image: the agent and the firewall tools that it calls, nothing else. Built from the repository's root:
#
#   docker build -t mirrord-agent .
#
# Inside a pod's network namespace it needs CAP_NET_ADMIN (rules), CAP_SYS_ADMIN (entering namespaces) and CAP_NET_RAW.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p mirrord-agent && strip target/release/mirrord-agent

FROM debian:bookworm-slim
# The tools come from the release that the image is based on: pinning their versions would only break later builds.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends iptables nftables \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/mirrord-agent /usr/local/bin/mirrord-agent
ENTRYPOINT ["/usr/local/bin/mirrord-agent"]
