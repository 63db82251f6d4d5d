# weft as an image: one static binary, the root certificates, the bill of materials.
# docs/image.md: how to build it for both architectures, run it and verify it.
#
# Kernel objects are committed, so Go alone builds it: the build stage runs on the
# builder's architecture and compiles for the target's, without emulation.
ARG GO_VERSION=1.26
FROM --platform=$BUILDPLATFORM golang:${GO_VERSION}-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# /out is to be the image's root.
RUN mkdir -p /out/usr/bin /out/usr/share/sbom /out/etc/ssl/certs && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/
ARG TARGETOS=linux
ARG TARGETARCH
ARG VERSION=dev
# The same bytes anywhere: no C, no folder names, no checkout, no link-time id.
RUN CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=${VERSION}" -o /out/usr/bin/weft ./cmd/agent
RUN CGO_ENABLED=0 go run -trimpath ./deploy/sbom -version "${VERSION}" -root /out /usr/bin/weft /etc/ssl/certs/ca-certificates.crt >/out/usr/share/sbom/weft.cdx.json

# What both images share.
FROM scratch AS base
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="weft" \
      org.opencontainers.image.description="eBPF agent that keeps one request in one trace across uninstrumented programs" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENTRYPOINT ["/usr/bin/weft"]
CMD ["run", "--config", "/etc/weft/weft.yaml"]

# --target nonroot: user 65532, for clusters that admit no user 0. Added
# capabilities reach an ordinary user only through the file that is executed, so
# they are written there; the price is that the kernel refuses to execute it, even
# for `weft version`, where one of them is not granted.
FROM build AS filecaps
RUN CGO_ENABLED=0 go run -trimpath ./deploy/image/filecaps /out/usr/bin/weft

FROM base AS nonroot
COPY --from=filecaps /out/ /
USER 65532:65532

# The default: user 0, because Kubernetes, containerd and CRI-O hand added
# capabilities to that user alone. Without them user 0 owns files and nothing more,
# and weft starts anywhere to say what it lacks. The manifest drops the rest.
FROM base AS weft
COPY --from=build /out/ /
USER 0:0
