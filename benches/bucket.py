#!/usr/bin/env python3
"""Measures Release Server over a MinIO against that MinIO itself, and prints a table.

The same client (curl) sends and fetches the same bytes, in turns: through the gateway, and straight to the store by a
signed link. A number is the median of the rounds, a ratio the median of the rounds' ratios. Gateway, store and client
share the CPUs, so it is the ratio that counts.

Needs a MinIO binary, curl and wrk; touches nothing but loopback ports and a temporary directory.
"""

import argparse
import contextlib
import datetime
import hashlib
import hmac
import itertools
import os
import pathlib
import re
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from run import MB, ROOT, TOKEN, Ours, Server, memory

KEY = "for-the-benchmark-alone"
BUCKET = "releases"


class MinIO(Server):
    name = "MinIO"

    def __init__(self, home, binary):
        super().__init__(home, False)
        self.binary = binary

    def command(self):
        return [self.binary, "server", str(self.home / "store"), "--quiet", "--address", f"127.0.0.1:{self.port}"]

    def environment(self):
        credentials = {"MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": KEY}
        return {**credentials, "HOME": str(self.home), "MINIO_PROMETHEUS_AUTH_TYPE": "public", "MINIO_BROWSER": "off"}

    def status(self, path):
        return super().status("/minio/health/ready") == 200 or None

    def link(self, method, key=""):
        """A link signed for an hour (Signature Version 4), which needs no other credentials."""
        now = datetime.datetime.now(datetime.timezone.utc)
        scope = f"{now:%Y%m%d}/us-east-1/s3/aws4_request"
        query = urllib.parse.urlencode(
            {
                "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
                "X-Amz-Credential": f"{KEY}/{scope}",
                "X-Amz-Date": f"{now:%Y%m%dT%H%M%SZ}",
                "X-Amz-Expires": "3600",
                "X-Amz-SignedHeaders": "host",
            },
            quote_via=urllib.parse.quote,
        )
        host, path = f"127.0.0.1:{self.port}", f"/{BUCKET}/{key}".rstrip("/")
        request = f"{method}\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
        text = f"AWS4-HMAC-SHA256\n{now:%Y%m%dT%H%M%SZ}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signing = f"AWS4{KEY}".encode()
        for part in scope.split("/"):
            signing = hmac.digest(signing, part.encode(), "sha256")
        signature = hmac.digest(signing, text.encode(), "sha256").hex()
        return f"http://{host}{path}?{query}&X-Amz-Signature={signature}"

    def make_bucket(self):
        for attempt in itertools.count():
            try:
                return urllib.request.urlopen(urllib.request.Request(self.link("PUT"), method="PUT")).close()
            except urllib.error.HTTPError as error:
                # It says that it is ready a moment before it is.
                if error.code != 503 or attempt == 50:
                    raise
                time.sleep(0.2)

    def requests(self):
        """How many requests of each kind it has answered, by its own metrics."""
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/minio/v2/metrics/cluster").read().decode()
        found = re.findall(r'^minio_s3_requests_total\{api="(\w+)"[^}]*\} ([\d.e+]+)$', text, re.MULTILINE)
        return {kind: float(count) for kind, count in found}


class Gateway(Ours):
    def __init__(self, home, binary, store):
        super().__init__(home, False, binary, home)
        self.store = store

    def environment(self):
        environment = super().environment()
        del environment["STORAGE_PATH"]
        return {
            **environment,
            "STORAGE_URL": f"s3://{BUCKET}/bench",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.store.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": KEY,
        }

    def url(self, name):
        return f"http://127.0.0.1:{self.port}/assets/{name}"


def curl(*arguments):
    begun = time.perf_counter()
    subprocess.run(["curl", "--fail", "--silent", "--show-error", "--output", "/dev/null", *arguments], check=True)
    return time.perf_counter() - begun


def authorized():
    return ["--header", f"Authorization: Bearer {TOKEN}"]


def turns(what, size, rounds, ours, theirs):
    """A row: how fast both are in turns, and the ratio."""
    pairs = []
    for number in range(rounds + 1):
        pair = (size / MB / ours(number), size / MB / theirs(number))
        if number > 0:  # the first warms up
            pairs.append(pair)
    gateway, store = (statistics.median(column) for column in zip(*pairs))
    ratio = statistics.median(a / b for a, b in pairs)
    return f"| {what} | {gateway:,.0f} MB/s | {store:,.0f} MB/s | {ratio:.2f} |"


def latest(gateway, store, seconds):
    for number in range(10):
        gateway.put(f"small-{number}.zip", os.urandom(1000))
    before = store.requests().get("listobjectsv2", 0)
    output = subprocess.check_output(
        ["wrk", "-t2", "-c64", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{gateway.port}/latest"], text=True
    )
    # MinIO counts with a delay.
    time.sleep(12)
    lists = store.requests().get("listobjectsv2", 0) - before
    answers = int(re.search(r"(\d+) requests in", output)[1])
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])
    errors = re.search(r"Non-2xx.*|Socket errors.*", output)
    tail = f", {errors[0]}" if errors else ""
    return f"| `/latest`, 10 packages, 64 connections | {rate:,.0f}/s | {answers / max(lists, 1):,.0f} answers a LIST{tail} | |"


def many_uploads(gateway, home, count, size):
    """Peak memory above what it was, while `count` files of `size` bytes go up at once."""
    file = home / "large.bin"
    with open(file, "wb") as out:
        for _ in range(size // (64 * MB)):
            out.write(os.urandom(64 * MB))
    idle = memory(gateway.process.pid, "VmRSS")
    peak, done = idle, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, memory(gateway.process.pid, "VmRSS"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    uploads = [
        subprocess.Popen(
            ["curl", "-sSf", "-o", "/dev/null", "-T", str(file), *authorized(), gateway.url(f"large-{number}.bin")]
        )
        for number in range(count)
    ]
    failed = sum(upload.wait() != 0 for upload in uploads)
    took = time.perf_counter() - begun
    done.set()
    watcher.join()
    assert failed == 0, f"{failed} uploads failed"
    size = file.stat().st_size
    return (
        f"| {count} uploads of {size / MB:,.0f} MB at once | {count * size / MB / took:,.0f} MB/s | "
        f"peak {peak / MB:,.0f} MB, {(peak - idle) / MB:,.0f} MB above idle | |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minio", required=True, help="the MinIO binary (`.ci/minio.sh` builds it)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=10, help="of load on /latest")
    parser.add_argument("--large", type=int, default=1_000, metavar="MB", help="size of each of 8 uploads at once")
    arguments = parser.parse_args()
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=ROOT, check=True)
    binary = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/release-server"

    with contextlib.ExitStack() as stack:
        home = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="release-server-bench-")))
        store = stack.enter_context(MinIO(home / "minio", arguments.minio))
        store.make_bucket()
        gateway = stack.enter_context(Gateway(home / "gateway", str(binary), store))
        size = 100 * MB
        file = home / "file.bin"
        file.write_bytes(os.urandom(size))
        rows = [
            turns(
                "upload, 100 MB",
                size,
                arguments.rounds,
                lambda n: curl("--upload-file", str(file), *authorized(), gateway.url(f"up-{n}.bin")),
                lambda n: curl("--upload-file", str(file), store.link("PUT", f"direct/up-{n}.bin")),
            ),
            turns(
                "download, 100 MB",
                size,
                arguments.rounds,
                lambda _: curl(gateway.url("up-0.bin")),
                lambda _: curl(store.link("GET", "bench/up-0.bin")),
            ),
        ]
        for number in range(arguments.rounds + 1):
            gateway.delete(f"up-{number}.bin")
        rows.append(latest(gateway, store, arguments.seconds))
        rows.append(many_uploads(gateway, home, 8, arguments.large * MB))

    version = subprocess.check_output([binary, "--version"], text=True).strip()
    print(f"{datetime.date.today()}, {version} over MinIO, {os.cpu_count()} CPUs: `benches/bucket.py`\n")
    print("| what | Release Server | MinIO itself | ratio |\n|---|---:|---:|---:|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
