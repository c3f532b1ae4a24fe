# Weir in a small image: built in the first stage, run as nobody in the second.
FROM rust:1-slim-bookworm AS build
WORKDIR /weir
COPY . .
RUN cargo build --locked --release --bin weir

FROM debian:bookworm-slim
COPY --from=build /weir/target/release/weir /usr/local/bin/weir
# Live weights are kept here: give it a volume.
RUN mkdir -p /var/lib/weir /etc/weir && chown nobody:nogroup /var/lib/weir
USER nobody
VOLUME /var/lib/weir
EXPOSE 8080 9902
STOPSIGNAL SIGTERM
ENTRYPOINT ["weir"]
CMD ["serve", "--config", "/etc/weir/weir.toml"]
