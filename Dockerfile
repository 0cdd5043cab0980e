# The image of operator and tasks. Without a registry or Docker: `cargo xtask image`.
#   docker build -t redkeep .
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends cmake g++ pkg-config
WORKDIR /source
COPY . .
RUN rustup target add wasm32-unknown-unknown && cargo run --release -p xtask -- plugins && cargo build --release -p redkeep --bin redkeep
# Static, for it is copied into images of Redis; the target is named so that the flags stay away from build scripts.
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
    && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release -p redkeep-instance --target "$target" \
    && cp "target/$target/release/redkeep-instance" target/release/

# glibc and CA certificates, no shell, no package manager; its user `nonroot` is 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /source/target/release/redkeep /source/target/release/redkeep-instance /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/redkeep"]
