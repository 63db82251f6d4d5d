# The agent as an image of one static binary and the root certificates.
# Kernel objects are committed, so Go alone builds it, for either architecture:
#
#   docker buildx build --platform linux/amd64,linux/arm64 -t weft .
#   docker run --pid=host --privileged -v ./weft.yaml:/etc/weft/weft.yaml:ro -v /sys:/sys weft
#
# It needs the host's PID namespace, /sys/fs/cgroup, /sys/kernel and the
# capabilities of deploy/weft.service. deploy/image_test.go runs the build line.
ARG GO_VERSION=1.26
FROM --platform=$BUILDPLATFORM golang:${GO_VERSION}-bookworm AS build
ARG TARGETOS=linux
ARG TARGETARCH
ARG VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=${VERSION}" -o /out/weft ./cmd/agent

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/weft /usr/bin/weft
# The self-test of injection sends a file.
WORKDIR /tmp
# Loading BPF programs needs root; the capabilities decide how much of it.
USER 0:0
ENTRYPOINT ["/usr/bin/weft"]
CMD ["run", "--config", "/etc/weft/weft.yaml"]
