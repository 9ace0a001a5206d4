# Images for those who have a container engine: docker build --target server --tag leasehold . (or --target operator)
# The same content without one: cargo dev images

FROM rust:1-bookworm AS build
WORKDIR /leasehold
COPY . .
ENV RUSTFLAGS="-C target-feature=+crt-static" CARGO_PROFILE_RELEASE_STRIP="symbols"
# The target is named so that build scripts are not linked in this way. What an image holds beside its program is what
# programs look for that speak to others: public authorities, and where names come from.
RUN target="$(uname -m)-unknown-linux-gnu" \
    && cargo build --release --locked --target "$target" --package leasehold-server --package leasehold-operator \
    && mkdir -p /programs /base/etc/ssl/certs \
    && cp "target/$target/release/leasehold" "target/$target/release/leasehold-operator" /programs/ \
    && cp /etc/ssl/certs/ca-certificates.crt /base/etc/ssl/certs/ \
    && echo "hosts: files dns" > /base/etc/nsswitch.conf \
    && echo "leasehold:x:65532:65532::/:/sbin/nologin" > /base/etc/passwd \
    && install --directory --mode=1777 /base/tmp

FROM scratch AS server
COPY --from=build /base/ /
COPY --from=build /programs/leasehold /leasehold
USER 65532:65532
ENTRYPOINT ["/leasehold"]

FROM scratch AS operator
COPY --from=build /base/ /
COPY --from=build /programs/leasehold-operator /leasehold-operator
USER 65532:65532
ENTRYPOINT ["/leasehold-operator"]
