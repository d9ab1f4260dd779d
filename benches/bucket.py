#!/usr/bin/env python3
"""Measures Release Server on a bucket of a MinIO, against that MinIO itself.

The same client sends and fetches the same bytes: through the gateway, and straight to the store by signed requests.

Needs a MinIO binary, wrk and curl.
"""

import concurrent.futures
import http.client
import math
import os
import statistics
import subprocess
import threading
import time

import harness
from harness import AUTHORIZED, MB, Gateway, MinIO, Ours, timed, turns, wrk

ABOUT = (
    "MinIO alone is asked by the same clients, with signed requests; uploads go to it in the same parts, as many at once. "
    "Gateway, store and load share the CPUs and are measured in turns; a number is the median of the rounds, a ratio that "
    "of their ratios."
)

# As the gateway sends them: src/storage.rs.
PART_BYTES = 8 * 1024 * 1024
PARTS_IN_FLIGHT = 4


def put(port, path, body, headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("PUT", path, body, dict(headers))
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    assert answer.status == 200, (answer.status, content[:500])
    return answer.headers


def upload_in_parts(store, key, body):
    """A multipart upload straight to the store."""
    _, answer = store.send("POST", key, b"", uploads="")
    upload = answer.decode().partition("<UploadId>")[2].partition("</UploadId>")[0]

    def send(number):
        part = body[(number - 1) * PART_BYTES : number * PART_BYTES]
        path = store.path("PUT", key, partNumber=str(number), uploadId=upload)
        return f"<Part><PartNumber>{number}</PartNumber><ETag>{put(store.port, path, part)['ETag']}</ETag></Part>"

    with concurrent.futures.ThreadPoolExecutor(PARTS_IN_FLIGHT) as pool:
        parts = list(pool.map(send, range(1, -(-len(body) // PART_BYTES) + 1)))
    whole = f"<CompleteMultipartUpload>{''.join(parts)}</CompleteMultipartUpload>"
    _, answer = store.send("POST", key, whole.encode(), uploadId=upload)
    assert b"CompleteMultipartUploadResult" in answer, answer


def list_all(store, prefix):
    """Every page of a listing, straight from the store; answers how many pages there were."""
    connection = http.client.HTTPConnection("127.0.0.1", store.port, timeout=120)
    query, pages = {"list-type": "2", "prefix": prefix, "delimiter": "/"}, 0
    while True:
        connection.request("GET", store.path("GET", **query))
        page = connection.getresponse().read().decode()
        pages += 1
        _, more, rest = page.partition("<NextContinuationToken>")
        if not more:
            connection.close()
            return pages
        query["continuation-token"] = rest.partition("<")[0]


def fetch(port, path):
    """Reads a large answer and forgets it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 200, answer.status
    block = memoryview(bytearray(1 << 20))
    while answer.readinto(block):
        pass
    connection.close()


def transfers(results, gateway, store, rounds, size=100 * MB):
    body = memoryview(os.urandom(size))
    speed = lambda act: size / MB / timed(act)
    ours = lambda n: speed(lambda: put(gateway.port, f"/assets/up-{n}.bin", body, AUTHORIZED))
    theirs = lambda n: speed(lambda: upload_in_parts(store, f"direct/up-{n}.bin", body))
    results.add("upload, 100 MB", "beside a multipart upload", "MB/s", *turns(rounds, ours, theirs), at_least=0.9)
    ours = lambda _: speed(lambda: fetch(gateway.port, "/assets/up-0.bin"))
    theirs = lambda _: speed(lambda: fetch(store.port, store.path("GET", f"{gateway.prefix}/up-0.bin")))
    results.add("download, 100 MB", "1 connection", "MB/s", *turns(rounds, ours, theirs), at_least=0.9)
    for n in range(rounds + 1):
        gateway.delete(f"up-{n}.bin")


def hot(results, gateway, store, directory, rounds, seconds):
    """A small package that is asked for often: against the store, and against a server on a directory."""
    for name, size, connections in (("4 KB", 4_000, 64), ("300 KB", 300_000, 64)):
        body = os.urandom(size)
        for server in (gateway, directory):
            server.put(f"{size}.zip", body)
        path = f"/assets/{size}.zip"
        signed = store.path("GET", f"{gateway.prefix}/{size}.zip")
        load = lambda server, path: lambda _: wrk(server, path, connections, seconds)
        servers = turns(rounds, load(gateway, path), load(store, signed), load(directory, path), warm_up=False)
        speeds = [[one.mb_per_s for one in list_] for list_ in servers]
        p99 = [[one.p99_ms for one in list_] for list_ in servers[:2]]
        what = f"{connections} connections"
        results.add(f"download, {name}, asked for often", what, "MB/s", *speeds[:2], at_least=0.9, p99=p99)
        results.add(
            f"download, {name}, asked for often", "beside our own on a directory", "MB/s", speeds[0], speeds[2], at_least=0.9
        )
        gateway.delete(f"{size}.zip")


def latest(results, gateway, store, counts, seconds):
    """Under load, beside a LIST of the same packages under the same load; and one request alone, beside a whole listing."""
    there = 0
    for count in counts:
        gateway.fill(there, count)
        there = count
        prefix = f"{gateway.prefix}/"
        alone = lambda act: statistics.median(timed(act) * 1000 for _ in range(5))
        pages = list_all(store, prefix)
        what = f"{count:,} packages"
        one, direct = alone(lambda: gateway.ask("GET", "/latest")), alone(lambda: list_all(store, prefix))
        results.add("`/latest`", f"{what}, one request alone", "ms", one, direct)
        seconds = max(seconds, math.ceil(3 * one / 1000))
        before = store.requests()
        ours = wrk(gateway, "/latest", 64, seconds)
        asked = store.requests() - before
        page = store.path("GET", **{"list-type": "2", "prefix": prefix, "delimiter": "/"})
        direct = wrk(store, page, 64, seconds)
        a_request = ours.requests / max(asked.total(), 1)
        results.add(
            "`/latest`", f"{what}, beside LIST", "/s", ours.requests_per_s, direct.requests_per_s / pages,
        )  # fmt: skip
        results.add("`/latest`", f"{what}, for one request to the store", "answers", a_request)


def many_uploads(results, gateway, home, count, size):
    """Peak memory above what it was, while several large files go up at once."""
    file = home / "large.bin"
    with open(file, "wb") as out:
        block = os.urandom(64 * MB)
        for _ in range(size // len(block)):
            out.write(block)
    size = file.stat().st_size
    idle = gateway.status("VmRSS")
    peak, done = idle, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, gateway.status("VmRSS"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    token = f"Authorization: {AUTHORIZED['Authorization']}"
    begun = time.perf_counter()
    uploads = [
        subprocess.Popen(
            ["curl", "-sSf", "-o", "/dev/null", "-T", str(file), "-H", token]
            + [f"http://127.0.0.1:{gateway.port}/assets/large-{number}.bin"]
        )
        for number in range(count)
    ]
    failed = sum(upload.wait() != 0 for upload in uploads)
    took = time.perf_counter() - begun
    done.set()
    watcher.join()
    file.unlink()
    assert failed == 0, f"{failed} uploads failed"
    for number in range(count):
        gateway.delete(f"large-{number}.bin")
    what = f"{count} uploads of {size / MB:,.0f} MB at once"
    results.add("upload", what, "MB/s", count * size / MB / took)
    # `upload_memory_bytes`, and what the connections take.
    results.add("memory", f"{what}, above idle", "MB", (peak - idle) / MB, limit=350)


def measure(results, arguments, home):
    quick = arguments.quick
    with (
        MinIO(home / "minio", arguments.minio) as store,
        Gateway(home / "gateway", arguments.binary, store) as gateway,
        Ours(home / "ours", arguments.binary, home / "data") as directory,
    ):
        transfers(results, gateway, store, 3 if quick else 7)
        hot(results, gateway, store, directory, 3, 1 if quick else 2)
        many_uploads(results, gateway, home, 8, 128 * MB if quick else 256 * MB)
        latest(results, gateway, store, (10, 1_000) if quick else (10, 1_000, 10_000), 3 if quick else 5)


PART = harness.Part("bucket", "MinIO", ["MinIO", "wrk", "curl"], ABOUT, measure)

if __name__ == "__main__":
    PART.main()
