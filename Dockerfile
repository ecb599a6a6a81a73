FROM rust:1-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --no-create-home --shell /usr/sbin/nologin pointsman
COPY --from=build /src/target/release/pointsman /usr/bin/pointsman
COPY conf/minimal.yaml /etc/pointsman/pointsman.yaml
USER pointsman
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s CMD ["pointsman", "status"]
ENTRYPOINT ["pointsman"]
CMD ["run", "/etc/pointsman/pointsman.yaml"]
