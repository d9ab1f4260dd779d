#!/usr/bin/env python3
"""Measures Release Server against nginx, which serves the same bytes as static files, and prints a table.

Both servers run at the same time and are measured in turns, A B A B …, so whatever else the machine does meets both.
A number is the median of the rounds, and a ratio the median of the rounds' ratios. It is the ratio that counts: the
load generator shares the CPUs with the servers, so neither number is what the server could do alone.

nginx is set up as one would for static files: sendfile, tcp_nopush, a worker per CPU, an access log. It has no
open_file_cache, which would make it answer with what a file was up to a minute ago.

Needs nginx and wrk; touches nothing but loopback ports and a temporary directory.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import datetime
import hashlib
import http.client
import json
import operator
import os
import pathlib
import platform
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MB = 1_000_000
MIB = 1024 * 1024
TICKS = os.sysconf("SC_CLK_TCK")
TOKEN = "for-the-benchmark-alone"

NGINX = """\
daemon off;
{user}
worker_processes auto;
pid {home}/nginx.pid;
error_log {home}/nginx-error.log;
events {{ worker_connections 1024; }}
http {{
    include /etc/nginx/mime.types;
    default_type application/json;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 65;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    access_log {log};
    client_body_temp_path {home}/temp;
    proxy_temp_path {home}/temp; fastcgi_temp_path {home}/temp; uwsgi_temp_path {home}/temp; scgi_temp_path {home}/temp;
    server {{
        listen 127.0.0.1:{port};
        root {home}/files;
        {put}
    }}
}}
"""

# wrk's own report rounds; this one is read by a program.
REPORT = """\
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format("\\nREPORT %d %d %d %d %d %d\\n", summary.duration, summary.requests, summary.bytes,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""

Round = collections.namedtuple("Round", "requests_per_s mb_per_s p50_ms p99_ms cpu_us")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def memory(pid, key):
    """A line of /proc/PID/status, in bytes."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(key)


class Server:
    """A process that answers on a port of its own; ended by its id when the block ends."""

    def __init__(self, home, logged):
        self.home, self.logged, self.port = home, logged, free_port()
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / "log"

    def __enter__(self):
        with open(self.log, "ab") as log:
            begun = time.perf_counter()
            self.process = subprocess.Popen(
                self.command(), env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        while self.status("/healthz") is None:
            if self.process.poll() is not None or time.perf_counter() - begun > 30:
                self.__exit__()
                sys.exit(f"{self.name} does not start:\n{self.log.read_text()}")
            time.sleep(0.001)
        self.start_s = time.perf_counter() - begun
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def status(self, path):
        with contextlib.suppress(OSError):
            return self.ask("GET", path)[0]

    def ask(self, method, path, body=None, headers=()):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return response.status, response.read()

    def put(self, name, body):
        status, answer = self.ask("PUT", f"/assets/{name}", body, {"Authorization": f"Bearer {TOKEN}"})
        assert status in (200, 201, 204), (self.name, status, answer)
        return answer

    def pids(self):
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [self.process.pid, *map(int, children.split())]

    def memory(self, key):
        return sum(memory(pid, key) for pid in self.pids())

    def cpu_s(self):
        """Seconds of CPU used so far; differences of it do not depend on what else the machine does."""
        fields = (pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.pids())
        return sum(int(user) + int(system) for *_, user, system in (stat[:13] for stat in fields)) / TICKS

    def own_memory(self):
        """In bytes; a page that several processes share is divided among them."""
        lines = (line for pid in self.pids() for line in open(f"/proc/{pid}/smaps_rollup"))
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


class Ours(Server):
    name = "Release Server"

    def __init__(self, home, logged, binary, data):
        super().__init__(home, logged)
        self.binary, self.data = binary, data

    def command(self):
        return [self.binary, "serve"]

    def environment(self):
        config = self.home / "config.yaml"
        config.touch()
        return {
            "CONFIG_PATH": str(config),
            "STORAGE_PATH": str(self.data),
            "BIND_ADDRESS": "127.0.0.1",
            "PORT": str(self.port),
            "AUTH_TOKEN": TOKEN,
            "MAX_PACKAGES": "0",
            "LOG__LEVEL": "info" if self.logged else "warn",
        }

    def delete(self, name):
        status, answer = self.ask("DELETE", f"/assets/{name}", headers={"Authorization": f"Bearer {TOKEN}"})
        assert status == 204, (status, answer)

    def names(self):
        status, answer = self.ask("GET", "/latest")
        assert status == 200, answer
        return [asset["name"] for asset in json.loads(answer)["assets"]]


class Nginx(Server):
    name = "nginx"

    def __init__(self, home, logged, put=False):
        super().__init__(home, logged)
        (home / "temp").mkdir(exist_ok=True)
        self.files = home / "files"
        (self.files / "assets").mkdir(parents=True, exist_ok=True)
        (self.files / "healthz").write_text("ok")
        config = NGINX.format(
            user="user root;" if os.geteuid() == 0 else "",
            home=home,
            port=self.port,
            log=home / "log" if logged else "off",
            put="dav_methods PUT;" if put else "",
        )
        (home / "nginx.conf").write_text(config)

    def command(self):
        return ["nginx", "-p", str(self.home), "-e", str(self.home / "nginx-error.log"), "-c", str(self.home / "nginx.conf")]

    def environment(self):
        return None


class Bench:
    def __init__(self, arguments, home):
        self.arguments, self.home = arguments, home
        self.rows = []
        self.report = home / "report.lua"
        self.report.write_text(REPORT)
        self.blocks = {}

    def note(self, text):
        print(text, file=sys.stderr, flush=True)

    def bytes(self, size):
        """Random bytes, for no file system to make them smaller."""
        if size not in self.blocks:
            self.blocks[size] = os.urandom(size)
        return self.blocks[size]

    @contextlib.contextmanager
    def pair(self, data, logged):
        """Ours on `data`, and nginx on an empty directory."""
        with Ours(self.home / "ours", logged, self.arguments.binary, data) as ours:
            with Nginx(self.home / "nginx", logged) as nginx:
                yield ours, nginx

    def wrk(self, server, path, connections):
        command = ["wrk", "-t2", f"-c{connections}", f"-d{self.arguments.seconds}s", "-s", str(self.report)]
        command.append(f"http://127.0.0.1:{server.port}{path}")
        cpu_s = server.cpu_s()
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        cpu_s = server.cpu_s() - cpu_s
        report = next(line for line in output.splitlines() if line.startswith("REPORT "))
        duration_us, requests, size, errors, p50_us, p99_us = map(int, report.split()[1:])
        assert errors == 0 and requests > 0, f"{server.name} {path}: {output}"
        # Both append, so both go on at the file's new end.
        os.truncate(server.log, 0)
        per_s = 1e6 / duration_us
        return Round(requests * per_s, size * per_s / MB, p50_us / 1000, p99_us / 1000, cpu_s / requests * 1e6)

    def rounds(self, label, ours, nginx, path, connections):
        """The rounds of both."""
        (status, ours_says), (also, nginx_says) = ours.ask("GET", path), nginx.ask("GET", path)
        assert (status, also) == (200, 200) and ours_says == nginx_says, f"{path}: they do not serve the same"
        rounds = ([], [])
        for number in range(self.arguments.rounds):
            for server, results in zip((ours, nginx), rounds):
                results.append(self.wrk(server, path, connections))
            a, b = (results[-1] for results in rounds)
            self.note(
                f"{label}, round {number + 1}: {a.requests_per_s:.0f}/s against {b.requests_per_s:.0f}/s, "
                f"p99 {a.p99_ms:.2f} ms against {b.p99_ms:.2f} ms, "
                f"CPU {a.cpu_us:.1f} µs a request against {b.cpu_us:.1f} µs"
            )
        return rounds

    def row(self, what, ours, nginx, unit, digits=0, goal=None):
        """Of each round, ours and nginx's.

        `goal`: what the ratio is to be at least, or at most if negative; or a limit in words, and whether it is kept.
        """
        ratio = statistics.median(map(operator.truediv, ours, nginx)) if nginx else None
        if isinstance(goal, tuple):
            words, kept = goal
        elif goal:
            words, kept = (f"≥ {goal}", ratio >= goal) if goal > 0 else (f"≤ {-goal}", ratio <= -goal)
        else:
            words, kept = "", True
        show = lambda values: f"{statistics.median(values):,.{digits}f} {unit}" if values else "–"
        verdict = f"{words} {'✓' if kept else '✗'}" if words else ""
        self.rows.append((what, show(ours), show(nginx), f"{ratio:.2f}" if ratio else "–", verdict))

    def row_of(self, field, what, rounds, *args, **kwargs):
        """A row of one of the things measured in each round."""
        self.row(what, *([getattr(one, field) for one in results] for results in rounds), *args, **kwargs)

    def fill(self, data, count):
        """Publishes packages; a listing does not care what is in them."""
        with Ours(self.home / "ours", False, self.arguments.binary, data) as ours:
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                names = (f"spec-kit-template-agent{index:04}-sh-v0.0.91.zip" for index in range(count))
                collections.deque(pool.map(lambda name: ours.put(name, name.encode()), names), maxlen=0)

    def never_stale(self, ours, changes=50):
        """What was uploaded is in the next answer, what was deleted is not; under load."""
        stop = threading.Event()

        def load():
            while not stop.is_set():
                ours.ask("GET", "/latest")

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(load) for _ in range(4)]
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
        self.note(f"/latest showed each of {changes} uploads and deletions in the very next answer")

    def latest(self):
        for count, goal in ((10, 0.6), (1000, 0.3)):
            data = self.home / f"data-{count}"
            self.fill(data, count)
            for logged in self.arguments.logged:
                with self.pair(data, logged) as (ours, nginx):
                    (nginx.files / "latest").write_bytes(ours.ask("GET", "/latest")[1])
                    label = f"`/latest`, {count:,} packages{'' if logged else ', no logs'}"
                    rounds = self.rounds(label, ours, nginx, "/latest", 64)
                    self.row_of("requests_per_s", label, rounds, "/s", goal=goal)
                    if logged:
                        self.never_stale(ours)

    def downloads(self):
        for text, size, connections in (("300 KB", 300_000, 32), ("100 MB", 100 * MB, 4)):
            small = size < MB
            data = self.home / f"data-{size}"
            for logged in self.arguments.logged if small else self.arguments.logged[:1]:
                with self.pair(data, logged) as (ours, nginx):
                    if not (data / "file.zip").exists():
                        ours.put("file.zip", self.bytes(size))
                    shutil.copyfile(data / "file.zip", nginx.files / "assets" / "file.zip")
                    label = f"download of {text}{'' if logged else ', no logs'}"
                    rounds = self.rounds(label, ours, nginx, "/assets/file.zip", connections)
                    self.row_of("mb_per_s", label, rounds, "MB/s", goal=0.5 if small else 1.0)
                    if small:
                        self.row_of("p50_ms", "… p50", rounds, "ms", 2)
                        self.row_of("p99_ms", "… p99", rounds, "ms", 2, goal=-2)

    def uploads(self):
        body = self.bytes(100 * MB)
        digest = hashlib.sha256(body).hexdigest()
        speeds, grown = ([], []), ([], [])
        for number in range(self.arguments.rounds):
            # New processes each time: a peak is for life.
            with Ours(self.home / "ours", True, self.arguments.binary, self.home / "data-uploads") as ours:
                with Nginx(self.home / "nginx", True, put=self.arguments.dav) as nginx:
                    servers = (ours, nginx) if self.arguments.dav else (ours,)
                    for server, speed, growths in zip(servers, speeds, grown):
                        names = [f"upload-{index}.zip" for index in range(8)]
                        idle = server.memory("VmRSS")
                        begun = time.perf_counter()
                        with concurrent.futures.ThreadPoolExecutor(8) as pool:
                            answers = list(pool.map(lambda name: server.put(name, body), names))
                        speed.append(8 * len(body) / MB / (time.perf_counter() - begun))
                        growths.append((server.memory("VmHWM") - idle) / MIB)
                        if server is ours:
                            assert all(json.loads(answer)["sha256"] == digest for answer in answers)
                            for name in names:
                                ours.delete(name)
                        self.note(
                            f"8 uploads, {server.name}, round {number + 1}: {speed[-1]:.0f} MB/s, "
                            f"{growths[-1]:.1f} MiB above idle"
                        )
            shutil.rmtree(self.home / "nginx" / "files")
        self.row("8 uploads of 100 MB at once", *speeds, "MB/s")
        # The worst round, not the median.
        peaks = [[max(growths)] if growths else [] for growths in grown]
        self.row("… peak memory above idle", *peaks, "MiB", 1, goal=("< 64 MiB", peaks[0][0] < 64))

    def at_rest(self):
        data = self.home / "data-1000"
        if not data.exists():
            self.fill(data, 1000)
        starts, idle = ([], []), ([], [])
        for _ in range(2 * self.arguments.rounds):
            with self.pair(data, True) as servers:
                time.sleep(0.2)
                for server, times, sizes in zip(servers, starts, idle):
                    times.append(server.start_s * 1000)
                    sizes.append(server.own_memory() / MIB)
        self.row("start to first answer, 1,000 packages", *starts, "ms")
        self.row("idle memory", *idle, "MiB", 1)

    def table(self):
        first = lambda *command: subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        ours = first(self.arguments.binary, "--version").stdout.strip()
        nginx = first("nginx", "-v").stderr.strip().removeprefix("nginx version: ")
        wrk = " ".join(first("wrk", "-v").stdout.split()[:2])
        cpus = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in cpus if line.startswith("model name")), platform.machine())
        kernel = platform.release().split("-")[0]
        print(f"| | {ours.split()[0]} | nginx | ratio | goal |")
        print("|---|--:|--:|--:|---|")
        for row in self.rows:
            print(f"| {' | '.join(row)} |")
        print(
            f"\n{datetime.date.today()}, {ours}, {nginx}, {wrk}, Linux {kernel}, {os.cpu_count()} × {model}, the load "
            f"generator on the same CPUs. Median of {self.arguments.rounds} rounds of {self.arguments.seconds} s, "
            f"alternating. Both write a log line a request to a file, unless it says otherwise; uploads are synced to "
            f"the disk by release-server, not by nginx. Command: `{shlex.join(['benches/run.py', *sys.argv[1:]])}`."
        )


def main():
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=details)
    everything = ("latest", "downloads", "uploads", "at_rest")
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"of: {', '.join(everything)} [default: all]")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement [default: 5]")
    parser.add_argument("--seconds", type=int, default=4, help="length of a round [default: 4]")
    parser.add_argument("--logs", choices=("on", "off", "both"), default="both", help="access logs [default: both]")
    parser.add_argument("--binary", help="the server to measure [default: this one, built with --release]")
    arguments = parser.parse_args()
    arguments.what = arguments.what or everything
    if unknown := set(arguments.what) - set(everything):
        parser.error(f"`{unknown.pop()}` is not one of: {', '.join(everything)}")
    arguments.logged = {"on": [True], "off": [False], "both": [True, False]}[arguments.logs]
    if missing := [program for program in ("nginx", "wrk") if shutil.which(program) is None]:
        sys.exit(f"error: {' and '.join(missing)} not found; on Debian and Ubuntu: apt-get install {' '.join(missing)}")
    if arguments.binary is None:
        subprocess.run(["cargo", "build", "--release", "--locked"], cwd=ROOT, check=True)
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        arguments.binary = ROOT / target / "release" / "release-server"
    arguments.binary = str(pathlib.Path(arguments.binary).resolve())
    version = subprocess.run(["nginx", "-V"], capture_output=True, text=True)
    arguments.dav = "--with-http_dav_module" in version.stderr

    with tempfile.TemporaryDirectory(prefix="release-server-bench-") as home:
        bench = Bench(arguments, pathlib.Path(home))
        for what in everything:
            if what in arguments.what:
                getattr(bench, what)()
        bench.table()


if __name__ == "__main__":
    main()
