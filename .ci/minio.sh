# shellcheck shell=bash
# The real MinIO, for the tests: sourced by `.ci/run`, whose `have`, `skip` and CACHE it uses.
#
# `install_minio` builds the server and its client `mc` from their Go modules, once a version, and sets MINIO to the
# directory that holds both. The versions are those of minio/Dockerfile. About 3 minutes on 2 cores.

install_minio() {
    local server client
    server=$(minio_version MINIO_VERSION)
    client=$(minio_version MC_VERSION)
    MINIO="$CACHE/minio-$server"
    if [[ ! -x $MINIO/minio || ! -x $MINIO/mc ]]; then
        have go || skip "MinIO is built from source, and Go is not installed (1.24 or newer)"
        GOBIN="$MINIO" CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "github.com/minio/mc@$client"
        GOBIN="$MINIO" CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "github.com/minio/minio@$server"
    fi
}

# minio_version ARGUMENT: what minio/Dockerfile gives it.
minio_version() {
    sed -n "s/^ARG $1=//p" minio/Dockerfile
}
