#!/usr/bin/env python3
"""Measures Release Server on a directory: against nginx on the same files, and against dd.

Needs nginx, wrk and curl.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import threading
import time

import harness
from harness import AUTHORIZED, MB, Nginx, Ours, say, timed, turns, wrk

MANY = 12
"""Rounds of uploads to one server."""

ABOUT = (
    "nginx serves the same files: sendfile, a worker per CPU, no open_file_cache. Both write a log line a request. Servers "
    "and load share the CPUs and are measured in turns; a number is the median of the rounds, a ratio that of their ratios."
)


@contextlib.contextmanager
def pair(home, binary, data, kind=Ours):
    with kind(home / "ours", binary, data, logged=True) as ours, Nginx(home / "nginx", data, logged=True) as nginx:
        yield ours, nginx


class Directory:
    def __init__(self, results, arguments, home):
        self.results, self.binary, self.home, self.quick = results, arguments.binary, home, arguments.quick
        self.rounds, self.seconds = (3, 1) if arguments.quick else (3, 2)

    def load(self, group, what, servers, path, connections, field, unit, seconds=None, headers=None, each=None, before=None, **target):
        """A row: the same load on both."""

        def one(server, own_headers):
            def measure(_):
                if before:
                    before()
                return wrk(server, path, connections, seconds or self.seconds, own_headers, each)

            return measure

        rounds = turns(self.rounds, *map(one, servers, headers or ([], [])), warm_up=False)
        if any(one.requests > each for one in rounds[0] + rounds[1] if each and before):
            say(f"{what}: more requests than files; some were warm")
        p99 = [[one.p99_ms for one in list_] for list_ in rounds]
        # Of fewer, it is their greatest.
        enough = all(one.requests >= 200 for one in rounds[0] + rounds[1])
        values = [[getattr(one, field) for one in list_] for list_ in rounds]
        self.results.add(group, what, unit, *values, p99=p99 if enough else None, **target)

    def latest(self):
        for count, at_least in ((10, 0.8), (1_000, 0.7), (10_000, 0.7)):
            data = self.home / f"data-{count}"
            with Ours(self.home / "ours", self.binary, data) as ours:
                ours.fill(0, count)
            with pair(self.home, self.binary, data) as (ours, nginx):
                (nginx.files / "latest").write_bytes(ours.ask("GET", "/latest")[1])
                servers = (ours, nginx)
                self.load("`/latest`", f"{count:,} packages", servers, "/latest", 64, "requests_per_s", "/s", at_least=at_least)
                # Answered without a body, so nothing says what a ratio should be; "faster still" is against our own 200.
                known = [[f"If-None-Match: {server.header('/latest', 'etag')}"] for server in servers]
                for server, (header,) in zip(servers, known):
                    status, _ = server.ask("GET", "/latest", headers=[header.split(": ")])
                    assert status == 304, (server.name, status)
                whole = self.results.rows[-1].ours
                self.load(
                    "`/latest`, a 304", f"{count:,} packages", servers, "/latest", 64, "requests_per_s", "/s", headers=known
                )
                row = self.results.rows[-1]
                row.target, row.kept = f"> {harness.number(whole)} /s", row.ours > whole
                never_stale(ours)

    def downloads(self):
        data = self.home / "data-sizes"
        data.mkdir()
        sizes = (("4 KB", 4_000, 1.1), ("300 KB", 300_000, 1.1), ("4 MB", 4 * MB, 1.1), ("100 MB", 100 * MB, 1.5))
        for name, size, _ in sizes:
            # Random, for no file system to make it smaller.
            (data / f"{size}.zip").write_bytes(os.urandom(size))
        with pair(self.home, self.binary, data) as servers:
            wait_for_digests(servers[0])
            for name, size, at_least in sizes:
                path = f"/assets/{size}.zip"
                (status, ours), (also, nginxs) = (server.ask("GET", path) for server in servers)
                assert (status, also) == (200, 200) and ours == nginxs, f"{path}: they do not serve the same"
                del ours, nginxs
                for connections in (1, 64) if self.quick else (1, 16, 64, 256):
                    what = f"{connections} connection{'s' * (connections > 1)}"
                    self.load(f"download, {name}", what, servers, path, connections, "mb_per_s", "MB/s", at_least=at_least)

    def large_set(self):
        """More bytes than we keep of hot files; first from the page cache, then from the disk."""
        count, size = 8_000, 300_000
        data = self.home / "data-set"
        data.mkdir()
        block = os.urandom(size + count)
        for index in range(count):
            (data / f"file-{index:04}.zip").write_bytes(block[index : index + size])
        files = sorted(data.iterdir())

        def forget():
            for file in files:
                with open(file, "rb") as opened:
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

        os.sync()  # what is not written yet cannot be forgotten
        with pair(self.home, self.binary, data) as servers:
            wait_for_digests(servers[0])
            set_ = f"download, {count:,} × 300 KB"
            for connections in (16,) if self.quick else (16, 64):
                self.load(
                    set_, f"{connections} connections", servers, "/assets/file-%04d.zip", connections, "mb_per_s", "MB/s",
                    each=count, at_least=0.8,
                )  # fmt: skip
            self.load(
                "download, not in the page cache", "16 connections", servers, "/assets/file-%04d.zip", 16, "mb_per_s", "MB/s",
                seconds=1, each=count, before=forget, at_least=0.8,
            )  # fmt: skip
        shutil.rmtree(data)

    def uploads(self):
        """The source is in memory, both are on the disk when they say so."""
        size = 1_000 * MB
        source = pathlib.Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else self.home) / f"release-server-bench-{os.getpid()}"
        data = self.home / "data-uploads"
        try:
            block = os.urandom(100 * MB)
            with open(source, "wb") as file:
                for _ in range(size // len(block)):
                    file.write(block)
            with Ours(self.home / "ours", self.binary, data, logged=True) as ours:

                # Neither begins while the disk is still at work for the other.
                def upload(_):
                    os.sync()
                    speed = size / MB / timed(lambda: curl_upload(ours, source, "large.zip"))
                    ours.delete("large.zip")
                    return speed

                def copy(_):
                    path = data / ".dd"
                    os.sync()
                    command = ["dd", f"if={source}", f"of={path}", "bs=1M", "conv=fsync", "status=none"]
                    speed = size / MB / timed(lambda: subprocess.run(command, check=True))
                    path.unlink()
                    return speed

                # 1.2 times as long as dd takes.
                values = turns(self.rounds, upload, copy)
                self.results.add("upload, 1 GB", "beside `dd conv=fsync`", "MB/s", *values, at_least=0.83)

            block = memoryview(block)
            names = [f"upload-{index}.zip" for index in range(8)]

            def at_once(ours):
                with concurrent.futures.ThreadPoolExecutor(8) as pool:
                    took = timed(lambda: list(pool.map(lambda name: ours.put(name, block), names)))
                for name in names:
                    ours.delete(name)
                return took

            def uploading(rounds):
                # New processes each time: a peak is for life.
                with Ours(self.home / "ours", self.binary, data, logged=True) as ours:
                    idle = ours.status("VmRSS")
                    speeds = [8 * len(block) / MB / at_once(ours) for _ in range(rounds)]
                    return speeds, (ours.status("VmHWM") - idle) / MB

            speeds, grown = zip(*(uploading(1) for _ in range(self.rounds)))
            self.results.add("upload, 100 MB", "8 at once", "MB/s", [speed for (speed,) in speeds])
            self.results.add("memory", "8 uploads at once, above idle", "MB", max(grown), limit=64)
            # An allocator that keeps what other threads have freed shows only now.
            self.results.add("memory", f"{MANY} times 8 uploads at once, above idle", "MB", uploading(MANY)[1])
        finally:
            source.unlink(missing_ok=True)

    def at_rest(self):
        """Starts, and memory."""
        for count in (10, 1_000, 10_000):
            data = self.home / f"data-{count}"
            starts, idle, own = ([], []), ([], []), []
            # The first request is that for `/latest`.
            first = type("First", (Ours,), {"ready": "/latest"})
            for _ in range(2 * self.rounds):
                with pair(self.home, self.binary, data, first) as servers:
                    time.sleep(0.2)
                    for server, times, sizes in zip(servers, starts, idle):
                        times.append(server.start_s * 1000)
                        sizes.append(server.own_memory() / MB)
                    own.append(servers[0].status("RssAnon") / MB)
            self.results.add("start to the first `/latest`", f"{count:,} packages", "ms", *starts, limit=50)
            if count == 1_000:
                memory = idle, own
        self.results.add("memory", "idle, 1,000 packages", "MB", *memory[0], limit=15)
        self.results.add("memory", "idle, without what is in the program's file", "MB", memory[1])

    def open_downloads(self, count=1_000):
        """Clients that read the head and then nothing more."""
        data = self.home / "data-sizes"
        grown = []
        with pair(self.home, self.binary, data) as servers:
            for server in servers:
                idle = server.own_memory()
                with contextlib.ExitStack() as stack:
                    for _ in range(count):
                        stalled = stack.enter_context(socket.socket())
                        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                        stalled.connect(("127.0.0.1", server.port))
                        stalled.sendall(f"GET /assets/{100 * MB}.zip HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                        assert b" 200 " in stalled.recv(64), server.name
                    time.sleep(2)
                    grown.append(server.own_memory() / MB)
                    say(f"{server.name}: {idle / MB:.1f} MB idle, {grown[-1]:.1f} MB with {count} open downloads")
        self.results.add("memory", f"{count:,} open downloads of 100 MB, all stalled", "MB", *grown, limit=150)


def never_stale(ours, changes=25):
    """What was uploaded is in the next answer, what was deleted is not; under load."""
    stop = threading.Event()

    def load():
        while not stop.is_set():
            ours.ask("GET", "/latest")

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(load) for _ in range(2)]
        try:
            for index in range(changes):
                name = f"just-now-{index}.zip"
                ours.put(name, name.encode())
                assert ours.names()[0] == name, f"`/latest` is stale: `{name}` was uploaded before"
                ours.delete(name)
                assert name not in ours.names(), f"`/latest` is stale: `{name}` was deleted before"
        finally:
            stop.set()
        for task in loads:
            task.result()
    say(f"`/latest` showed each of {changes} uploads and deletions in the very next answer")


def wait_for_digests(ours):
    """Files that were not uploaded are hashed in the background, which is not what is measured."""
    while any(asset["digest"] is None for asset in json.loads(ours.ask("GET", "/latest")[1])["assets"]):
        time.sleep(0.2)


def curl_upload(ours, source, name):
    command = ["curl", "-sSf", "-o", "/dev/null", "-T", str(source), "-H", f"Authorization: {AUTHORIZED['Authorization']}"]
    subprocess.run([*command, f"http://127.0.0.1:{ours.port}/assets/{name}"], check=True)


def measure(results, arguments, home):
    directory = Directory(results, arguments, home)
    directory.latest()
    directory.downloads()
    directory.large_set()
    directory.uploads()
    directory.open_downloads()
    directory.at_rest()


PART = harness.Part("directory", "nginx", ["nginx", "wrk", "curl"], ABOUT, measure)

if __name__ == "__main__":
    PART.main()
