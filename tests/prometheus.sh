#!/usr/bin/env bash
# A real Prometheus scrapes a real server under load, and every query of the chart's dashboard, and every metric of the
# operating guide, has data.
#
#   tests/prometheus.sh            or `just prometheus-test`; about a minute
#
# Takes the program in target/debug (built if need be; BINARY names another), and `prometheus` from the path, else the
# package of this Debian, which is unpacked into the cache and not installed.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/say.sh
source tests/say.sh

SECONDS_OF_LOAD=${SECONDS_OF_LOAD:-30}
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/release-server-ci"
export AUTH_TOKEN="only-for-this-run"

main() {
    WORK=$(mktemp -d)
    trap finish EXIT
    find_prometheus
    find_program

    step "starting a server, and a Prometheus that scrapes it"
    start_server
    start_prometheus
    wait_for "$SERVER/readyz"
    wait_for "$PROMETHEUS/-/ready"

    step "load for $SECONDS_OF_LOAD s"
    load &
    sleep "$SECONDS_OF_LOAD"
    check || fail "a query has no data, or no number"
}

find_prometheus() {
    if command -v prometheus >/dev/null; then
        PROMETHEUS_BINARY=$(command -v prometheus)
        return
    fi
    PROMETHEUS_BINARY="$CACHE/prometheus/usr/bin/prometheus"
    [[ ! -x $PROMETHEUS_BINARY ]] || return 0
    command -v apt-get >/dev/null || skip "prometheus is not installed, and there is no apt to fetch it with"
    mkdir -p "$CACHE/prometheus"
    (cd "$WORK" && apt-get download -qq prometheus && dpkg-deb --extract prometheus_*.deb "$CACHE/prometheus")
}

find_program() {
    if [[ -z ${BINARY:-} ]]; then
        cargo build --locked
        BINARY="${CARGO_TARGET_DIR:-target}/debug/release-server"
    fi
}

start_server() {
    local port metrics
    port=$(free_port)
    metrics=$(free_port)
    mkdir "$WORK/store"
    env -u CONFIG_PATH MAX_PACKAGES=5 STORAGE_PATH="$WORK/store" BIND_ADDRESS=127.0.0.1 PORT="$port" \
        METRICS__BIND_ADDRESS="127.0.0.1:$metrics" "$BINARY" >"$WORK/server.log" 2>&1 &
    PIDS+=($!)
    SERVER="http://127.0.0.1:$port"
    METRICS="127.0.0.1:$metrics"
}

start_prometheus() {
    local port
    port=$(free_port)
    # As the chart's ServiceMonitor labels it.
    cat >"$WORK/prometheus.yml" <<EOF
global: {scrape_interval: 1s}
scrape_configs:
  - job_name: release-server
    static_configs:
      - targets: ["$METRICS"]
        labels: {namespace: releases}
EOF
    "$PROMETHEUS_BINARY" --config.file="$WORK/prometheus.yml" --storage.tsdb.path="$WORK/tsdb" \
        --web.listen-address="127.0.0.1:$port" >"$WORK/prometheus.log" 2>&1 &
    PIDS+=($!)
    PROMETHEUS="http://127.0.0.1:$port"
}

# Something of each kind that the metrics tell apart.
load() {
    local round=0 token="Authorization: Bearer $AUTH_TOKEN"
    while true; do
        round=$((round + 1))
        head -c 20000 /dev/urandom >"$WORK/package"
        ask --upload-file "$WORK/package" --header "$token" "$SERVER/assets/app-$round.zip"
        ask --upload-file "$WORK/package" --header "$token" "$SERVER/assets/app-$round.zip"
        ask --upload-file "$WORK/package" --header "$token" "$SERVER/assets/app-$round.zip?overwrite=true"
        ask --upload-file "$WORK/package" --header "Authorization: Bearer wrong" "$SERVER/assets/no.zip"
        ask --form "file=@$WORK/package;filename=form-$round.zip" --header "$token" "$SERVER/upload"
        ask "$SERVER/assets/app-$round.zip" "$SERVER/assets/app-$round.zip" "$SERVER/assets/none.zip"
        ask "$SERVER/latest" "$SERVER/packages" "$SERVER/latest" "$SERVER/readyz"
        ask --request DELETE --header "$token" "$SERVER/assets/form-$round.zip"
    done
}

ask() {
    curl --silent "$@" >/dev/null || true
}

check() {
    PROMETHEUS=$PROMETHEUS python3 - <<'EOF'
import glob, json, os, re, sys, urllib.parse, urllib.request

def query(expression):
    url = os.environ["PROMETHEUS"] + "/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    try:
        answer = json.load(urllib.request.urlopen(url))
    except urllib.error.HTTPError as error:
        return "refused: " + json.load(error)["error"]
    numbers = [float(series["value"][1]) for series in answer["data"]["result"]]
    if not numbers:
        return "no data"
    return None if any(number == number for number in numbers) else "nothing but NaN"

def panels(dashboard):
    for panel in dashboard.get("panels", []):
        yield panel
        yield from panels(panel)

queries = []
guide = open("docs/operating.md").read().split("\n## Metrics\n")[1]
for name, kind in re.findall(r"^\| `(\w+)` \| (\w+) \|", guide, re.M):
    queries.append(("metric", f"release_server_{name}" + ("_count" if kind == "histogram" else "")))
for path in glob.glob("charts/release-server/dashboards/*.json"):
    for panel in panels(json.load(open(path))):
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "15s").replace("$__range", "30s")
            expression = re.sub(r"\$(namespace|job)\b", ".*", expression)
            queries.append((panel["title"], expression))

wrong = [(title, expression, trouble) for title, expression in queries if (trouble := query(expression))]
for title, expression, trouble in wrong:
    print(f"{title}: {trouble}: {expression}")
of_panels = sum(title != "metric" for title, _ in queries)
print(f"{len(queries) - of_panels} metrics, {of_panels} queries of panels, {len(wrong)} without data")
sys.exit(bool(wrong) or not queries)
EOF
}

wait_for() {
    local _
    for _ in {1..150}; do
        if curl --silent --fail --output /dev/null "$1"; then return; fi
        sleep 0.2
    done
    fail "no answer from $1"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

PIDS=()
finish() {
    local status=$?
    if ((status != 0 && status != 75)); then
        tail -n 5 "$WORK"/*.log || true
    fi
    jobs -p | xargs --no-run-if-empty kill 2>/dev/null || true
    ((${#PIDS[@]} == 0)) || wait "${PIDS[@]}" 2>/dev/null || true
    rm -rf "$WORK"
    exit "$status"
}

main "$@"
