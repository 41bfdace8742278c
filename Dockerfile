# Pointsman as one static binary in an empty image.
#
#   docker build -t pointsman .
#   docker run -v "$PWD/conf:/etc/pointsman:ro" -p 8080:8080 pointsman

FROM rust:1-bookworm AS build
WORKDIR /src
ENV RUSTFLAGS="-C target-feature=+crt-static"

# The dependencies alone first, so that a change of our own sources does not build them again. This needs
# no BuildKit. --target is given because proc macros cannot be built with a static C library.
COPY Cargo.toml Cargo.lock ./
COPY src/Cargo.toml src/
RUN mkdir -p benchmarks/micro && echo 'fn main() {}' | tee src/main.rs >benchmarks/micro/main.rs && touch src/lib.rs src/core.rs \
 && cargo build --profile dist --locked --target "$(rustc -vV | sed -n 's/^host: //p')" \
 && rm -r src

COPY . .
# Cargo goes by modification times, and COPY keeps those of the checkout.
RUN find src -name '*.rs' -exec touch {} + \
 && target="$(rustc -vV | sed -n 's/^host: //p')" \
 && cargo build --profile dist --locked --bin pointsman --target "$target" \
 && cp "target/$target/dist/pointsman" /pointsman


FROM scratch
COPY --from=build /pointsman /pointsman

USER 65532:65532
EXPOSE 8080 9900
# SIGTERM drains. Docker kills ten seconds later unless `docker stop -t` or `stop_grace_period` says more:
# give it more than `runtime.drain` takes.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s --retries=3 \
  CMD ["/pointsman", "health", "-c", "/etc/pointsman/pointsman.yaml"]
ENTRYPOINT ["/pointsman"]
CMD ["run", "-c", "/etc/pointsman/pointsman.yaml"]

ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="pointsman" \
      org.opencontainers.image.description="A layer-4 TCP load balancer that follows Docker's DNS and says why each connection went where it went" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
