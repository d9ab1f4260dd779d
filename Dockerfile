# Release Server in a small image: no shell, no root, nothing to write to but /data.
#
#   docker build --tag release-server .
#   docker run --read-only --publish 8000:8000 --volume releases:/data --env AUTH_TOKEN=… release-server
#
# A release says what it is: --build-arg VERSION=1.2.3 --build-arg REVISION="$(git rev-parse HEAD)". No line depends on
# the platform, so --platform linux/amd64,linux/arm64 works wherever the two can be built.
#
# `docker stop` waits 10 s unless told otherwise; requests under way get up to `SERVER__SHUTDOWN_GRACE` (30 s). Use
# `docker stop --time 40`, or `stop_grace_period` in Compose.

ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# A third of the size; a backtrace keeps its function names.
ENV CARGO_PROFILE_RELEASE_DEBUG=none CARGO_PROFILE_RELEASE_STRIP=debuginfo

# The dependencies, in a layer that only a change to the lock file makes again.
COPY Cargo.toml Cargo.lock ./
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    mkdir src benches && touch src/lib.rs benches/pure.rs && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked

COPY src src
# `touch`: what was checked out may be older than the stand-ins above, and Cargo would take those for the newer ones.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    touch src/lib.rs src/main.rs \
    && cargo build --release --locked \
    && mkdir /empty

FROM ${RUNTIME_IMAGE}
ARG NAME=release-server
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="${NAME}" \
      org.opencontainers.image.description="Publishes and serves release packages from a directory or object storage" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"

COPY --from=build --chown=10001:10001 /empty /data
COPY --from=build /src/target/release/release-server /usr/local/bin/release-server

# A number, so that Kubernetes can tell that it is not root.
USER 10001:10001
ENV STORAGE_PATH=/data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/usr/local/bin/release-server", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/release-server"]
