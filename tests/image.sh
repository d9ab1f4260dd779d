#!/usr/bin/env bash
# The image as an operator meets it: what it is made of, that it runs with nothing but its volume to write to, and that
# `docker stop` under load loses no request. Prints a table.
#
#   tests/image.sh                 builds it and tries it; needs Docker
#   IMAGE=name tests/image.sh      tries that one

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/say.sh
source tests/say.sh

CONTAINER="release-server-image-test-$$"
AUTH_TOKEN="only-for-this-run"
CLIENTS=${CLIENTS:-16}

main() {
    WORK=$(mktemp -d)
    trap finish EXIT
    command -v docker >/dev/null || skip "docker is not installed"
    docker info >/dev/null 2>&1 || skip "no Docker engine answers"
    if [[ -z ${IMAGE:-} ]]; then
        IMAGE=release-server:image-test
        DOCKER_BUILDKIT=1 docker build --quiet --build-arg VERSION=1.2.3 --build-arg REVISION=abcdef --tag "$IMAGE" . >/dev/null
        label version 1.2.3
        label revision abcdef
    fi
    row "size" "$(docker image inspect --format '{{.Size}}' "$IMAGE" | numfmt --to=iec --suffix=B)"

    [[ $(docker image inspect --format '{{.Config.User}}' "$IMAGE") =~ ^[1-9][0-9]*:[1-9][0-9]*$ ]] ||
        fail "the user is not a number other than root's"
    [[ $(docker image inspect --format '{{.Config.Healthcheck.Test}}' "$IMAGE") == *healthcheck* ]] ||
        fail "there is no health check"
    ! docker run --rm --entrypoint /bin/sh "$IMAGE" -c true 2>/dev/null || fail "there is a shell in it"
    row "shell" "none"

    local began
    began=$(now)
    docker run --detach --name "$CONTAINER" --read-only --cap-drop ALL --security-opt no-new-privileges \
        --env AUTH_TOKEN="$AUTH_TOKEN" --env MAX_PACKAGES=0 "$IMAGE" >/dev/null
    SERVER="$(docker inspect --format '{{.NetworkSettings.IPAddress}}' "$CONTAINER"):8000"
    until curl --silent --fail --output /dev/null "http://$SERVER/readyz"; do
        (($(now) - began < 30000)) || fail "it did not become ready: $(docker logs "$CONTAINER" 2>&1 | tail -n 3)"
        sleep 0.01
    done
    row "docker run to ready" "$(($(now) - began)) ms, read-only root, no capabilities"

    local pid
    pid=$(docker inspect --format '{{.State.Pid}}' "$CONTAINER")
    row "user" "$(awk '/^Uid:/ {print $2}' "/proc/$pid/status")"
    sleep 1
    row "idle memory" "$(awk '/^VmRSS:/ {printf "%.1f MiB", $2 / 1024}' "/proc/$pid/status")"
    until_healthy

    stop_under_load
    echo
    column -t -s $'\t' "$WORK/table"
}

until_healthy() {
    local _
    for _ in {1..300}; do
        [[ $(docker inspect --format '{{.State.Health.Status}}' "$CONTAINER") != healthy ]] || return 0
        sleep 0.1
    done
    fail "the health check does not pass: $(docker inspect --format '{{json .State.Health.Log}}' "$CONTAINER")"
}

stop_under_load() {
    python3 - "$SERVER" "$AUTH_TOKEN" "$CLIENTS" >"$WORK/load" <<'EOF' &
import http.client, itertools, json, socket, sys, threading, time

host, port = sys.argv[1].split(":")
token, clients = sys.argv[2], int(sys.argv[3])
counts, lost, lock = {"answered": 0, "stored": 0}, [], threading.Lock()

def pieces(size, seconds):
    for _ in range(10):
        time.sleep(seconds / 10)
        yield b"x" * (size // 10)

# A connection for each request: what a client has sent on one that was accepted must be answered. Who finds the door
# closed has not been heard, and asks elsewhere; that ends this client.
def client(number):
    for round in itertools.count():
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            connection.connect()
        except (ConnectionRefusedError, socket.timeout, OSError):
            return
        try:
            if number % 4:
                connection.request("GET", "/latest")
            else:
                connection.request(
                    "PUT", f"/assets/app-{number}-{round}.bin", pieces(1_000_000, 1.0),
                    {"Authorization": f"Bearer {token}", "Content-Length": "1000000"})
            answer = connection.getresponse()
            answer.read()
            with lock:
                if answer.status == 200:
                    counts["answered"] += 1
                    counts["stored"] += number % 4 == 0
                else:
                    lost.append(f"client {number}: {answer.status}")
        except Exception as error:
            with lock:
                lost.append(f"client {number}: {error!r}")
        finally:
            connection.close()

threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps({**counts, "lost": lost}))
EOF
    local loading=$! began
    sleep 3
    began=$(now)
    docker stop --time 40 "$CONTAINER" >/dev/null
    local took=$(($(now) - began))
    wait "$loading"
    [[ $(docker inspect --format '{{.State.ExitCode}}' "$CONTAINER") == 0 ]] || fail "it was killed, or ended with an error"
    row "docker stop" "$took ms, under $CLIENTS clients"
    row "requests answered" "$(field answered), $(field stored) of them uploads"
    row "requests lost" "$(field lost)"
    [[ $(field lost) == 0 ]] || fail "$(cat "$WORK/load")"
    (($(field answered) > 100)) || fail "hardly anybody asked: $(cat "$WORK/load")"
}

field() {
    python3 -c 'import json, sys; value = json.load(open(sys.argv[1]))[sys.argv[2]]
print(len(value) if isinstance(value, list) else value)' "$WORK/load" "$1"
}

label() {
    local found
    found=$(docker image inspect --format "{{index .Config.Labels \"org.opencontainers.image.$1\"}}" "$IMAGE")
    [[ $found == "$2" ]] || fail "the label $1 is \`$found\` instead of \`$2\`"
}

row() {
    printf '%s\t%s\n' "$1" "$2" >>"$WORK/table"
}

# Milliseconds.
now() {
    date +%s%3N
}

finish() {
    local status=$?
    docker rm --force --volumes "$CONTAINER" >/dev/null 2>&1 || true
    rm -rf "$WORK"
    exit "$status"
}

main "$@"
