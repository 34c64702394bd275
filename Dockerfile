# The image that takes the place of measurementlab/packet-headers: the same entry point, user and file capability, and beside the
# program only what it loads. docs/INSTALL.md says how to run it, deploy/container/build.sh builds it without Docker.
#   docker build -t flowarc .
#   docker build --build-arg FEATURES=object-store --build-arg GIT_COMMIT=$(git rev-parse --short=7 HEAD) -t flowarc .

# Any image with this Rust or a later one on Debian 12 or later.
ARG BUILDER=docker.io/library/rust:1.95-bookworm
FROM ${BUILDER} AS build
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends \
        bison build-essential ca-certificates dpkg-dev flex libcap2-bin libpcap-dev python3 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# Apart from the source, so that it is not built again with every change of that.
COPY deploy/container/libpcap.sh deploy/container/
RUN deploy/container/libpcap.sh /libpcap
COPY . .
# Cargo's features, separated by spaces; the commit that --version tells, since the clone's .git is not here.
ARG FEATURES=
ARG GIT_COMMIT=
# A folder of the build context with flowarc and THIRD-PARTY-LICENSES, for who has built them on this Debian before.
ARG PREBUILT=
RUN if [ -n "$PREBUILT" ]; then \
        mv "$PREBUILT" /built; \
    else \
        FEATURES="$FEATURES" FLOWARC_GIT_COMMIT="$GIT_COMMIT" scripts/build-release.sh \
        && scripts/third-party-licenses.py --features "$FEATURES" >target/release/THIRD-PARTY-LICENSES \
        && mv target/release /built; \
    fi
RUN FEATURES="$FEATURES" deploy/container/rootfs.sh /built/flowarc /libpcap /built/THIRD-PARTY-LICENSES /rootfs

FROM scratch
LABEL org.opencontainers.image.title="flowarc" \
    org.opencontainers.image.description="Archives the packet headers of each TCP connection as a small pcap of its own" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /rootfs /
ENV PATH=/usr/bin
USER 65534:65534
WORKDIR /var/lib/flowarc
EXPOSE 9990
# Asks where PROMETHEUSX_LISTEN_ADDRESS says; set that, not the flag, to have both listen and ask on another port.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/usr/bin/flowarc", "health"]
ENTRYPOINT ["/packet-headers"]
