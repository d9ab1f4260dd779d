#!/usr/bin/env bash
# The whole stack of docker-compose.yml, from this checkout: started, used through its proxy, and one gateway stopped
# while packages are uploaded. No acknowledged upload may be lost, and no reader may notice.
#
#   tests/compose.sh           needs Docker with Compose and BuildKit, curl and Python 3
#
# It has a project, a port and volumes of its own, and removes them at the end; the images stay. On a failure the
# containers' last lines are shown. Exit code 75: not possible here.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/say.sh
source tests/say.sh

WRITERS=4
ROUNDS=50
PACKAGE_BYTES=100000
# These take longer than it takes to have a gateway told to stop, so each gateway is in the middle of some.
SLOW_WRITERS=6
SLOW_BYTES=24000000
SLOW_RATE=3M

main() {
    docker compose version >/dev/null 2>&1 || skip "there is no \`docker compose\`"
    docker info >/dev/null 2>&1 || skip "the Docker engine does not answer"

    WORK=$(mktemp -d)
    export COMPOSE_PROJECT_NAME="release-server-test-$$"
    export AUTH_TOKEN="only-for-this-run" MAX_PACKAGES=0 REPLICAS=2
    local port
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    export LISTEN="127.0.0.1:$port"
    SERVER="http://$LISTEN"
    trap finish EXIT

    step "build"
    compose build --quiet gateway
    step "start"
    compose up --detach --wait --wait-timeout 120
    step "first session"
    first_session
    step "what the gateways' user may do"
    compose exec --no-TTY gateway release-server doctor || fail "the doctor found something"
    step "each gateway"
    each_gateway_has_it
    step "stop gateway 1 while packages are uploaded"
    stop_one_during_uploads
    step "start it again"
    compose up --detach --wait --wait-timeout 120
    each_gateway_has_it
    echo "compose: passed in $SECONDS s"
}

# Upload, look, download, compare.
first_session() {
    make_package first.zip "$PACKAGE_BYTES"
    local digest status
    digest=$(digest_of "$WORK/first.zip")

    status=$(TOKEN=wrong put first.zip)
    [[ $status == 401 ]] || fail "an upload with a wrong token was answered with $status"
    status=$(put first.zip)
    [[ $status == 200 || $status == 201 ]] || fail "the upload was answered with $status"
    grep -q "$digest" "$WORK/first.zip.answer" || fail "the upload's answer does not have the digest $digest"
    status=$(put first.zip)
    [[ $status == 409 ]] || fail "a second upload of the name was answered with $status"

    # As a client does it: the link out of `/latest`, which has to lead through the proxy.
    local link
    link=$(curl --silent --fail "$SERVER/latest" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["assets"][0]["browser_download_url"])')
    [[ $link == "$SERVER/"* ]] || fail "the link \`$link\` does not lead through $SERVER"
    [[ $(curl --silent --fail --location "$link" | sha256sum) == "$digest "* ]] || fail "other bytes came back"
    echo "$link has the SHA-256 $digest"
}

each_gateway_has_it() {
    local index answer
    for index in 1 2; do
        answer=$(compose exec --no-TTY --index "$index" gateway release-server list --json)
        grep -q '"first.zip"' <<<"$answer" || fail "gateway $index does not list first.zip"
    done
}

stop_one_during_uploads() {
    local id jobs=() job
    mkdir "$WORK/acknowledged"
    touch "$WORK/again"
    read_latest &
    local reader=$!
    for ((id = 1; id <= SLOW_WRITERS; id++)); do
        upload "slow-$id.bin" "$SLOW_BYTES" --limit-rate "$SLOW_RATE" &
        jobs+=($!)
    done
    for ((id = 1; id <= WRITERS; id++)); do
        write "$id" &
        jobs+=($!)
    done

    until (($(acknowledged) >= WRITERS * ROUNDS / 10)); do sleep 0.1; done
    echo "stopping gateway 1 after $(acknowledged) uploads"
    docker stop --time 60 "$COMPOSE_PROJECT_NAME-gateway-1" >/dev/null
    echo "it stopped after $(acknowledged)"

    for job in "${jobs[@]}"; do
        wait "$job" || fail "an upload was not acknowledged in five tries"
    done
    kill "$reader"
    wait "$reader" || true

    local wanted=$((WRITERS * ROUNDS + SLOW_WRITERS)) name lost=0 again reads
    (($(acknowledged) == wanted)) || fail "$(acknowledged) of $wanted uploads were acknowledged"
    for name in "$WORK"/acknowledged/*; do
        name=${name##*/}
        [[ $(curl --silent "$SERVER/assets/$name" | sha256sum) == "$(<"$WORK/acknowledged/$name") "* ]] ||
            { echo "lost, or other bytes: $name" && lost=$((lost + 1)); }
    done
    again=$(wc -l <"$WORK/again")
    reads=$(wc -l <"$WORK/reads")
    echo "$wanted uploads acknowledged, $lost lost; $again requests made again; $reads reads of /latest"
    ((lost == 0)) || fail "$lost uploads were lost"
    ((reads > 0)) || fail "nobody read"
    ! grep -v '^200$' "$WORK/reads" || fail "reads of /latest failed"
    ! grep '^slow-' "$WORK/again" || fail "an upload under way was cut"
}

# write ID: uploads one package after the other.
write() {
    local round
    for ((round = 1; round <= ROUNDS; round++)); do
        upload "package-$1-$round.bin" "$PACKAGE_BYTES" || return
    done
}

read_latest() {
    while true; do
        curl --silent --output /dev/null --write-out '%{http_code}\n' "$SERVER/latest" >>"$WORK/reads" || true
        sleep 0.05
    done
}

# upload NAME BYTES [OPTION…]: as a careful client does, which makes a request again that was not answered. A name that
# is then taken was taken by itself: what is checked at the end are the bytes.
upload() {
    local name=$1 status try
    make_package "$name" "$2"
    for try in 1 2 3 4 5; do
        status=$(put "$name" "${@:3}") || true
        if [[ $status == 20? ]] || { [[ $status == 409 ]] && ((try > 1)); }; then
            digest_of "$WORK/$name" >"$WORK/$name.digest"
            mv "$WORK/$name.digest" "$WORK/acknowledged/$name"
            rm "$WORK/$name"
            return
        fi
        echo "$name: $status" >>"$WORK/again"
        sleep 0.5
    done
    return 1
}

acknowledged() {
    find "$WORK/acknowledged" -type f | wc -l
}

# put NAME [OPTION…]: prints the status, 000 if there was none.
put() {
    curl --silent --max-time 120 --upload-file "$WORK/$1" --header "Authorization: Bearer ${TOKEN:-$AUTH_TOKEN}" "${@:2}" \
        --output "$WORK/$1.answer" --write-out '%{http_code}' "$SERVER/assets/$1"
}

make_package() {
    head -c "$2" /dev/urandom >"$WORK/$1"
}

digest_of() {
    sha256sum "$1" | cut -d ' ' -f 1
}

compose() {
    docker compose --progress quiet "$@"
}

finish() {
    local status=$?
    if ((status != 0)); then
        docker compose ps --all
        docker compose logs --no-color --tail 20
    fi
    jobs -p | xargs --no-run-if-empty kill 2>/dev/null || true
    compose down --volumes --timeout 40 || true
    rm -rf "$WORK"
    exit "$status"
}

main "$@"
