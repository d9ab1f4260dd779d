#!/usr/bin/env python3
"""Counts what each request costs in requests to the store, over a MinIO, by its own count; and what that is in money.

Needs a MinIO binary, wrk and curl.
"""

import concurrent.futures
import os
import re
import time

import harness
from harness import MB, Gateway, MinIO, say, wrk

ABOUT = "Requests as MinIO counted them."

MINUTES = 60 * 24 * 30  # of a month

# Dollars a request, S3 Standard in us-east-1: docs/cost.md says so too. What is not named here is an error, not free.
DEAR, CHEAP, FREE = 0.005 / 1_000, 0.0004 / 1_000, 0
PRICES = {
    "ListObjectsV2": DEAR,
    "ListMultipartUploads": DEAR,
    "PutObject": DEAR,
    "CopyObject": DEAR,
    "NewMultipartUpload": DEAR,
    "PutObjectPart": DEAR,
    "CompleteMultipartUpload": DEAR,
    "GetObject": CHEAP,
    "HeadObject": CHEAP,
    "HeadBucket": CHEAP,
    "DeleteObject": FREE,
    "DeleteMultipleObjects": FREE,
    "AbortMultipartUpload": FREE,
}


def dollars(kinds):
    """Of requests by kind."""
    return sum(count * PRICES[kind] for kind, count in kinds.items())


class Counter:
    def __init__(self, results, store):
        self.results, self.store = results, store
        self.costs = results.tables["requests"] = {}

    def of(self, what, act, times=1, settle=0.5):
        """Counts the requests to the store while `act` runs, for each of so many `times`."""
        before = self.store.requests()
        times = act() or times
        # What an upload leaves for later, such as the look of the sweep, belongs to it.
        time.sleep(settle)
        asked = self.store.requests() - before
        kinds = {kind: count / times for kind, count in sorted(asked.items())}
        self.costs[what] = kinds
        say(f"cost: {what}: {text(kinds)}")


def text(kinds):
    return ", ".join(f"{shown(count)} {kind}" for kind, count in kinds.items()) or "none"


def shown(count):
    return f"{count:,.0f}" if count >= 100 or count == round(count) else f"{count:.2g}"


def repeat(times, act):
    def run():
        for index in range(times):
            act(index)

    return run


def at_rate(gateway, path, per_s, seconds):
    """Asks at a steady rate, whatever the answers take."""

    def run():
        begun = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            for index in range(round(per_s * seconds)):
                time.sleep(max(0, begun + index / per_s - time.monotonic()))
                pool.submit(gateway.ask, "GET", path)
        return round(per_s * seconds)

    return run


def swept(gateway):
    answer = gateway.ask("GET", "/metrics")[1].decode()
    return sum(int(count) for count in re.findall(r"^release_server_sweeps_total\{.*\} (\d+)$", answer, re.MULTILINE))


class Calm(Gateway):
    """Has done, when the block begins, what it does at its start."""

    def __enter__(self):
        super().__enter__()
        time.sleep(1)
        return self


def measure(results, arguments, home):
    small, large = os.urandom(100_000), os.urandom(100 * MB)
    calm = {"RETENTION__INTERVAL": "off"}
    with MinIO(home / "minio", arguments.minio) as store:
        count = Counter(results, store)
        start = lambda **settings: Calm(home / "gateway", arguments.binary, store, **{**calm, **settings})
        with start() as gateway:
            upload = lambda body: lambda index: gateway.put(f"{len(body)}-{index}.zip", body)
            count.of("upload of 100 KB", repeat(10, upload(small)), 10)
            count.of("upload of 100 MB", repeat(2, upload(large)), 2)
            get = lambda name: lambda _: gateway.ask("GET", f"/assets/{name}")
            count.of("download of 100 MB", repeat(5, get(f"{len(large)}-0.zip")), 5)
            count.of("download of 100 KB, the first", get(f"{len(small)}-0.zip") and repeat(1, get(f"{len(small)}-0.zip")))
            count.of("download of 100 KB, asked for often", repeat(20, get(f"{len(small)}-0.zip")), 20)
            not_modified = lambda etag: repeat(
                20, lambda _: gateway.ask("GET", f"/assets/{len(small)}-0.zip", headers={"If-None-Match": etag})
            )
            count.of("304 of a download", not_modified(gateway.header(f"/assets/{len(small)}-0.zip", "etag")), 20)
            count.of("deletion", repeat(2, lambda index: gateway.delete(f"{len(large)}-{index}.zip")), 2)
            count.of("readiness probe", repeat(10, lambda _: gateway.ask("GET", "/readyz")), 10)
        with start() as gateway:
            count.of("download by a server that has just started", repeat(1, get(f"{len(small)}-0.zip")))
            store.send("PUT", f"{Gateway.prefix}/by-hand.zip", small)
            count.of("download of what was copied in by hand", repeat(10, get("by-hand.zip")), 10)
        with start(DOWNLOADS="redirect") as gateway:
            count.of("download by redirect", repeat(20, get(f"{len(small)}-1.zip")), 20)

        with start() as gateway:
            there = 11
            for packages in (10, 1_000):
                if packages > there:
                    gateway.fill(there, packages)
                    there = packages
                get = lambda path: lambda _: gateway.ask("GET", path)
                count.of(f"`/latest`, {packages:,} packages, one at a time", repeat(10, get("/latest")), 10)
                if packages == 1_000:
                    count.of("`/latest`, 1,000 packages, 167 a second", at_rate(gateway, "/latest", 167, 5))
                load = lambda: wrk(gateway, "/latest", 64, 3).requests
                count.of(f"`/latest`, {packages:,} packages, as many as there can be", load)
        # A pass of the sweep, again and again, with nothing to remove; the first of a start does more.
        port = harness.free_port()
        often = {"RETENTION__INTERVAL": "1s", "METRICS__BIND_ADDRESS": f"127.0.0.1:{port}"}
        with start(**often) as gateway:
            metrics = type("Metrics", (), {"ask": gateway.ask})
            time.sleep(3)
            gateway_port, gateway.port = gateway.port, port
            before = swept(gateway)

            def watch():
                time.sleep(10)
                return max(swept(gateway) - before, 1)

            count.of(f"sweep of {there:,} packages, nothing to remove", watch, settle=0)
            gateway.port = gateway_port


def table(results):
    """Of Markdown: requests by kind, then what they come to a month."""
    costs = results.tables["requests"]
    lines = ["| for each | requests to the store | $ a million |", "|---|---|--:|"]
    for what, kinds in costs.items():
        lines.append(f"| {what} | {text(kinds)} | {dollars(kinds) * 1e6:,.2f} |")
    return "\n".join(lines) + "\n\n" + months(costs)


def months(costs):
    """What so many downloads a minute come to, each after a look at `/latest`."""
    of = lambda start: next(kinds for what, kinds in costs.items() if what.startswith(start))
    sweep = dollars(of("sweep of")) * 24 * 30 + dollars(of("readiness")) * 6 * MINUTES
    alone, many = of("`/latest`, 1,000 packages, one at"), of("`/latest`, 1,000 packages, 167")
    # With `LISTING_MAX_AGE=1s` there is one look a second at most, for each replica.
    looks = lambda per_minute: min(per_minute, 60)
    ways = {
        "streamed, not cached": of("download of 100 MB"),
        "streamed, small and asked for often": of("download of 100 KB, asked"),
        "redirected": of("download by redirect"),
    }
    rates = (1, 100, 10_000)
    cell = lambda value: f"{value:,.2f}"
    lines = [f"| $ a month | {' | '.join(f'{rate:,} a minute' for rate in rates)} |", "|---|" + "--:|" * len(rates)]
    for way, kinds in ways.items():
        lines.append(f"| downloads {way} | {' | '.join(cell(rate * MINUTES * dollars(kinds)) for rate in rates)} |")
    latest = [rate * MINUTES * dollars(many if rate > 1_000 else alone) for rate in rates]
    lines.append(f"| `/latest` as often, 1,000 packages | {' | '.join(map(cell, latest))} |")
    latest = [looks(rate) * MINUTES * dollars(alone) for rate in rates]
    lines.append(f"| … with `LISTING_MAX_AGE=1s` | {' | '.join(map(cell, latest))} |")
    lines.append(f"| a replica that idles: a sweep an hour, a probe in 10 s | {' | '.join([cell(sweep)] * len(rates))} |")
    return "\n".join(lines)


PART = harness.Part("cost", "MinIO", ["MinIO", "wrk"], ABOUT, measure, table)

if __name__ == "__main__":
    PART.main()
