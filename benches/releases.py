#!/usr/bin/env python3
"""Measures releases of repositories on a bucket of a MinIO: one of 10,200 assets (300 releases of 34), and one of 340.

Warm is one request after another over one connection; cold is the first of a server that was just started. The bytes of
an asset are 1 KiB, so that a download shows what it takes to find it. Requests to the store are its own count.

Needs a MinIO binary.
"""

import concurrent.futures
import http.client
import json
import os
import statistics
import threading
import time

import harness
from harness import AUTHORIZED, Gateway, MinIO, number, say, timed

ABOUT = (
    "One request at a time over one connection, bytes of 1 KiB; cold is the first request of a server that was just "
    "started. MinIO, server and client share the CPUs."
)
API = "/api/v3/repos"


class Client:
    """One connection for each thread."""

    def __init__(self, port):
        self.port, self.local = port, threading.local()

    def request(self, method, path, body=None):
        connection = getattr(self.local, "connection", None)
        if connection is None:
            connection = self.local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request(method, path, body, AUTHORIZED)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status in (200, 201, 204), f"{method} {path}: {answer.status} {content[:300]}"
        return content

    def upload(self, repository, release, name):
        path = f"/api/uploads/repos/{repository}/releases/{release}/assets?name={name}"
        return json.loads(self.request("POST", path, os.urandom(1024)))["id"]

    def publish(self, repository, number, assets):
        """A draft with its assets, then the release; answers its id."""
        fields = {"tag_name": f"v{number}.0.0", "name": f"Release {number}", "body": "Notes.\n" * 20, "draft": True}
        release = json.loads(self.request("POST", f"{API}/{repository}/releases", json.dumps(fields)))["id"]
        for index in range(assets):
            self.upload(repository, release, f"app-{index:02}.zip")
        self.request("PATCH", f"{API}/{repository}/releases/{release}", '{"draft": false}')
        return release

    def fill(self, repository, releases, assets):
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            begun = time.perf_counter()
            ids = list(pool.map(lambda number: self.publish(repository, number, assets), range(1, releases + 1)))
        say(f"published {releases} releases of {assets} assets in {time.perf_counter() - begun:.0f} s")
        return ids


def measure(results, arguments, home):
    many, assets, repeats, starts = (30, 34, 100, 2) if arguments.quick else (300, 34, 200, 3)
    repositories = {"bench/many": many, "bench/few": 10}
    rows = []
    with MinIO(home / "minio", arguments.minio) as store:
        start = lambda: Gateway(home / "gateway", arguments.binary, store, RETENTION__INTERVAL="off")
        with start() as gateway:
            client = Client(gateway.port)
            ids = {repository: client.fill(repository, releases, assets) for repository, releases in repositories.items()}

        for repository, releases in repositories.items():
            tag, release = f"v{releases // 2}.0.0", ids[repository][releases // 2 - 1]
            get = lambda path: lambda client, _: client.request("GET", path)
            cases = {
                "`releases/latest`": get(f"{API}/{repository}/releases/latest"),
                "`releases/tags/{tag}`": get(f"{API}/{repository}/releases/tags/{tag}"),
                "`releases?per_page=100`": get(f"{API}/{repository}/releases?per_page=100"),
                "`download/{tag}/{name}`": get(f"/{repository}/releases/download/{tag}/app-07.zip"),
                "upload of one asset more": lambda client, n: client.upload(repository, release, f"more-{n}.zip"),
            }
            for what, case in cases.items():
                cold = []
                for attempt in range(starts):
                    with start() as gateway:
                        client = Client(gateway.port)
                        # A connection of its own, which is not what is measured.
                        client.request("GET", "/healthz")
                        cold.append(timed(lambda: case(client, f"cold-{attempt}")) * 1000)
                        if attempt == starts - 1:
                            before = store.requests()
                            warm = sorted(timed(lambda: case(client, n)) * 1000 for n in range(repeats))
                            asked = store.requests() - before
                p99 = warm[int(len(warm) * 0.99) - 1]
                kinds = {kind: round(count / repeats, 2) for kind, count in asked.items() if count >= repeats / 20}
                say(f"releases: {what} of {releases * assets:,} assets: {statistics.median(warm):.1f} ms, {kinds}")
                rows.append([what, releases * assets, statistics.median(warm), p99, statistics.median(cold), kinds])
    results.tables["releases"] = rows


def table(results):
    """Of Markdown."""
    lines = ["| | assets | warm, median | warm, p99 | cold, median | requests to the store, warm |", "|---|--:|--:|--:|--:|---|"]
    for what, assets, median, p99, cold, kinds in results.tables["releases"]:
        asked = ", ".join(f"{number(count).rstrip('0').rstrip('.')} {kind}" for kind, count in kinds.items())
        times = " | ".join(f"{number(time)} ms" for time in (median, p99, cold))
        lines.append(f"| {what} | {assets:,} | {times} | {asked or 'none'} |")
    return "\n".join(lines)


PART = harness.Part("releases", "MinIO", ["MinIO"], ABOUT, measure, table)

if __name__ == "__main__":
    PART.main()
