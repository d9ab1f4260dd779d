#!/usr/bin/env python3
"""Measures releases of GitHub's kind over a MinIO: a repository of 300 releases with 34 assets each, and one of 10.

Cold is the first request of a server that was just started, warm the requests after it, one at a time. The bytes of an
asset are 1 KiB, so that a download shows what it takes to find it. Needs a MinIO binary; touches nothing but loopback
ports and a temporary directory.
"""

import argparse
import concurrent.futures
import contextlib
import datetime
import http.client
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import threading
import time

from bucket import Gateway, MinIO
from run import ROOT, TOKEN

API = "/api/v3/repos"
PER_THREAD = threading.local()


def request(port, method, path, body=None):
    """The answer's body; over one connection a thread."""
    connection = getattr(PER_THREAD, "connection", None)
    if connection is None or connection.port != port:
        connection = PER_THREAD.connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(method, path, body, {"Authorization": f"Bearer {TOKEN}"})
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status in (200, 201), f"{method} {path}: {answer.status} {content[:300]}"
    return content


def publish(port, repository, number, assets):
    """A draft with its assets, then the release."""
    fields = {"tag_name": f"v{number}.0.0", "name": f"Release {number}", "body": "Notes.\n" * 20, "draft": True}
    release = json.loads(request(port, "POST", f"{API}/{repository}/releases", json.dumps(fields)))
    for index in range(assets):
        path = f"/api/uploads/repos/{repository}/releases/{release['id']}/assets?name=app-{index:02}.zip"
        request(port, "POST", path, os.urandom(1024))
    request(port, "PATCH", f"{API}/{repository}/releases/{release['id']}", '{"draft": false}')


def fill(port, repository, releases, assets):
    begun = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: publish(port, repository, number, assets), range(1, releases + 1)))
    took = time.perf_counter() - begun
    print(f"published {releases} releases of {assets} assets in {took:.0f} s", flush=True)


def timed(port, path):
    begun = time.perf_counter()
    request(port, "GET", path)
    return (time.perf_counter() - begun) * 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minio", required=True, help="the MinIO binary (`.ci/minio.sh` builds it)")
    parser.add_argument("--server", type=pathlib.Path, help="the server, built already")
    parser.add_argument("--releases", type=int, default=300)
    parser.add_argument("--assets", type=int, default=34)
    parser.add_argument("--starts", type=int, default=7, help="how many cold requests of a kind")
    parser.add_argument("--requests", type=int, default=300, help="how many warm ones")
    arguments = parser.parse_args()
    binary = arguments.server
    if binary is None:
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=ROOT, check=True)
        binary = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/release-server"

    many, few = arguments.releases, 10
    middle = f"v{many // 2}.0.0"
    cases = [
        (f"`releases/latest`, {many} releases", f"{API}/bench/many/releases/latest"),
        (f"`releases/tags/{{tag}}`, {many} releases", f"{API}/bench/many/releases/tags/{middle}"),
        (f"`releases/tags/{{tag}}`, {few} releases", f"{API}/bench/few/releases/tags/v5.0.0"),
        (f"`download/{{tag}}/{{name}}`, {many} releases", f"/bench/many/releases/download/{middle}/app-07.zip"),
        (f"`download/{{tag}}/{{name}}`, {few} releases", "/bench/few/releases/download/v5.0.0/app-07.zip"),
        (f"`releases?per_page=100`, {many} releases", f"{API}/bench/many/releases?per_page=100"),
    ]
    rows = []
    with contextlib.ExitStack() as stack:
        home = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="release-server-bench-")))
        store = stack.enter_context(MinIO(home / "minio", arguments.minio))
        store.make_bucket()
        with Gateway(home / "gateway", str(binary), store) as gateway:
            fill(gateway.port, "bench/many", many, arguments.assets)
            fill(gateway.port, "bench/few", few, arguments.assets)
        cold, warm = {}, {}
        for start in range(arguments.starts):
            for what, path in cases:
                with Gateway(home / "gateway", str(binary), store) as gateway:
                    # A connection of its own, which is not what is measured.
                    request(gateway.port, "GET", "/healthz")
                    cold.setdefault(what, []).append(timed(gateway.port, path))
                    if start == 0:
                        warm[what] = sorted(timed(gateway.port, path) for _ in range(arguments.requests))
        for what, _ in cases:
            p99 = warm[what][int(len(warm[what]) * 0.99) - 1]
            row = (statistics.median(warm[what]), p99, statistics.median(cold[what]), max(cold[what]))
            rows.append(f"| {what} | " + " | ".join(f"{value:,.1f} ms" for value in row) + " |")
    version = subprocess.check_output([binary, "--version"], text=True).strip()
    print(f"\n{datetime.date.today()}, {version} over MinIO, {os.cpu_count()} CPUs: `benches/releases.py`\n")
    print("| what | warm, median | warm, p99 | cold, median | cold, worst |\n|---|--:|--:|--:|--:|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
