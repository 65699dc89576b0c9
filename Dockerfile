# syntax=docker/dockerfile:1
# The image of the agent: one static binary, CA certificates, nothing else.
#
#   docker build -t sealward .
#
# CI builds no image, because no container engine runs there. What the image rests on is
# tested instead: the static binary runs as the agent, under this uid, with nothing but
# these two files and what examples/cluster mounts (TestClusterDocs).
#
# A release takes the binaries that are made already: --target release.

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH VERSION COMMIT DATE
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.version=$VERSION -X main.commit=$COMMIT -X main.date=$DATE" -o /sealward ./cmd/sealward

FROM --platform=$BUILDPLATFORM golang:1.26 AS certificates

FROM scratch AS base
COPY --from=certificates /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# A number, so that Kubernetes can tell that it is not root.
USER 65532:65532
ENTRYPOINT ["/sealward"]

FROM base AS release
ARG TARGETPLATFORM
COPY $TARGETPLATFORM/sealward /sealward

FROM base
COPY --from=build /sealward /sealward
