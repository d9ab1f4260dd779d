"""What the measurements share: the servers to measure, the load on them, and the results.

Every part measures servers in turns, A B A B …, so whatever else the machine does meets both. A number is the median of
the rounds, a ratio the median of the rounds' ratios. The load shares the CPUs with the servers, so it is the ratio that
counts.

Nothing but loopback ports and a temporary directory is touched; processes are ended by their ids.
"""

import argparse
import collections
import collections.abc
import concurrent.futures
import contextlib
import dataclasses
import datetime
import hashlib
import hmac
import http.client
import itertools
import json
import operator
import os
import pathlib
import platform
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
MB = 1_000_000
TICKS = os.sysconf("SC_CLK_TCK")
TOKEN = "for-the-benchmark-alone"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


def say(text):
    print(text, file=sys.stderr, flush=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def many_files():
    """A thousand connections need as many open files, here and in the servers that are started from here."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


# The servers


class Server:
    """A process that answers on a port of its own, from the beginning of a `with` block to its end.

    `logged`: whether it writes a line a request to its log, which is a file.
    """

    name = None
    ready = "/healthz"
    """The path that has an answer once it has started."""

    def __init__(self, home, logged=False):
        self.home, self.logged, self.port = home, logged, free_port()
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / "log"

    def __enter__(self):
        with open(self.log, "ab") as log:
            begun = time.perf_counter()
            self.process = subprocess.Popen(
                self.command(), env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        while not self.answers():
            if self.process.poll() is not None or time.perf_counter() - begun > 30:
                self.__exit__()
                sys.exit(f"{self.name} does not start:\n{self.log.read_text()[-5000:]}")
            time.sleep(0.0005)
        self.start_s = time.perf_counter() - begun
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def answers(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask("GET", self.ready)[0] == 200
        return False

    def ask(self, method, path, body=None, headers=()):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return response.status, response.read()

    def header(self, path, name):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            return response.headers[name]

    def put(self, name, body):
        status, answer = self.ask("PUT", f"/assets/{name}", body, AUTHORIZED)
        assert status in (200, 201, 204), (self.name, status, answer)
        return answer

    def pids(self):
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [self.process.pid, *map(int, children.split())]

    def status(self, key):
        """A line of /proc/PID/status (`VmRSS`, `VmHWM`, `RssAnon`) of all its processes, in bytes."""
        files = (pathlib.Path(f"/proc/{pid}/status").read_text() for pid in self.pids())
        return sum(int(re.search(rf"^{key}:\s+(\d+) kB$", text, re.MULTILINE)[1]) * 1024 for text in files)

    def own_memory(self):
        """In bytes; a page that several processes share is divided among them."""
        files = (pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.pids())
        return sum(int(re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)[1]) * 1024 for text in files)

    def cpu_s(self):
        """Seconds of CPU used so far; differences of it do not depend on what else the machine does."""
        fields = (pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.pids())
        return sum(int(user) + int(system) for *_, user, system in (stat[:13] for stat in fields)) / TICKS


class Ours(Server):
    """Release Server on a directory."""

    name = "release-server"

    def __init__(self, home, binary, data, logged=False, **settings):
        super().__init__(home, logged)
        self.binary, self.data, self.settings = str(binary), data, settings

    def command(self):
        return [self.binary, "serve"]

    def environment(self):
        config = self.home / "config.yaml"
        config.touch()
        return {
            "CONFIG_PATH": str(config),
            "BIND_ADDRESS": "127.0.0.1",
            "PORT": str(self.port),
            "AUTH_TOKEN": TOKEN,
            "MAX_PACKAGES": "0",
            "LOG__LEVEL": "info" if self.logged else "warn",
            **self.storage(),
            **self.settings,
        }

    def storage(self):
        return {"STORAGE_PATH": str(self.data)}

    def delete(self, name):
        status, answer = self.ask("DELETE", f"/assets/{name}", headers=AUTHORIZED)
        assert status == 204, (status, answer)

    def names(self):
        status, answer = self.ask("GET", "/latest")
        assert status == 200, answer
        return [asset["name"] for asset in json.loads(answer)["assets"]]

    def fill(self, there, count):
        """Publishes packages until `count` are there; a listing does not care what is in them."""
        names = (f"spec-kit-template-agent{index:05}-sh-v0.0.91.zip" for index in range(there, count))
        # An upload to a bucket looks at the listing, and those that meet share a look.
        workers = 256 if count > 1_000 else 16
        begun = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            collections.deque(pool.map(lambda name: self.put(name, name.encode()), names), maxlen=0)
        say(f"published {count - there:,} packages in {time.perf_counter() - begun:.0f} s")


class Gateway(Ours):
    """Release Server on a bucket of a MinIO."""

    prefix = "bench"

    def __init__(self, home, binary, store, logged=False, **settings):
        super().__init__(home, binary, home, logged, **settings)
        self.store = store

    def storage(self):
        return {
            "STORAGE_URL": f"s3://{MinIO.bucket}/{self.prefix}",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.store.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": MinIO.key,
            "AWS_SECRET_ACCESS_KEY": MinIO.key,
        }


NGINX = """\
daemon off;
{user}
worker_processes auto;
pid {home}/nginx.pid;
error_log {home}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
    include /etc/nginx/mime.types;
    default_type application/json;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 65;
    keepalive_requests 1000000000;
    access_log {log};
    client_body_temp_path {home}/temp;
    proxy_temp_path {home}/temp; fastcgi_temp_path {home}/temp; uwsgi_temp_path {home}/temp; scgi_temp_path {home}/temp;
    server {{
        listen 127.0.0.1:{port};
        root {home}/files;
        location /assets/ {{ alias {data}/; }}
    }}
}}
"""


class Nginx(Server):
    """nginx on the very files of a directory, and on what is put into `files`.

    Set up as one would for static files: sendfile, tcp_nopush, a worker per CPU, an access log. It has no
    open_file_cache, which would make it answer with what a file was up to a minute ago.
    """

    name = "nginx"

    def __init__(self, home, data, logged=False):
        super().__init__(home, logged)
        self.files = home / "files"
        for folder in (self.files, home / "temp"):
            folder.mkdir(exist_ok=True)
        (self.files / "healthz").write_text("ok")
        config = NGINX.format(
            user="user root;" if os.geteuid() == 0 else "",
            home=home,
            port=self.port,
            log=self.log if logged else "off",
            data=data,
        )
        (home / "nginx.conf").write_text(config)

    def command(self):
        return ["nginx", "-p", str(self.home), "-e", str(self.home / "nginx-error.log"), "-c", str(self.home / "nginx.conf")]

    def environment(self):
        return None


class MinIO(Server):
    name = "MinIO"
    ready = "/minio/health/ready"
    key = "for-the-benchmark-alone"
    bucket = "releases"

    def __init__(self, home, binary):
        super().__init__(home)
        self.binary = str(binary)

    def command(self):
        return [self.binary, "server", str(self.home / "store"), "--quiet", "--address", f"127.0.0.1:{self.port}"]

    def environment(self):
        credentials = {"MINIO_ROOT_USER": self.key, "MINIO_ROOT_PASSWORD": self.key}
        return {**credentials, "HOME": str(self.home), "MINIO_PROMETHEUS_AUTH_TYPE": "public", "MINIO_BROWSER": "off"}

    def __enter__(self):
        super().__enter__()
        for attempt in itertools.count():
            try:
                self.send("PUT", "")
                return self
            except urllib.error.HTTPError as error:
                # It says that it is ready a moment before it is.
                if error.code != 503 or attempt == 50:
                    raise
                time.sleep(0.2)

    def path(self, method, key="", **query):
        """A path that is signed for an hour (Signature Version 4), and needs no other credentials."""
        now = datetime.datetime.now(datetime.timezone.utc)
        scope = f"{now:%Y%m%d}/us-east-1/s3/aws4_request"
        signed = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{self.key}/{scope}",
            "X-Amz-Date": f"{now:%Y%m%dT%H%M%SZ}",
            "X-Amz-Expires": "3600",
            "X-Amz-SignedHeaders": "host",
            **query,
        }
        query = urllib.parse.urlencode(sorted(signed.items()), quote_via=urllib.parse.quote, safe="")
        path = f"/{self.bucket}/{key}".rstrip("/")
        request = f"{method}\n{path}\n{query}\nhost:127.0.0.1:{self.port}\n\nhost\nUNSIGNED-PAYLOAD"
        text = f"AWS4-HMAC-SHA256\n{now:%Y%m%dT%H%M%SZ}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signing = f"AWS4{self.key}".encode()
        for part in scope.split("/"):
            signing = hmac.digest(signing, part.encode(), "sha256")
        return f"{path}?{query}&X-Amz-Signature={hmac.digest(signing, text.encode(), 'sha256').hex()}"

    def send(self, method, key, body=None, **query):
        """The headers and the body of the answer to a signed request."""
        url = f"http://127.0.0.1:{self.port}{self.path(method, key, **query)}"
        with urllib.request.urlopen(urllib.request.Request(url, body, method=method)) as answer:
            return answer.headers, answer.read()

    def requests(self):
        """How many requests of each kind it has been sent, by its own count, which has no delay."""
        text = self.ask("GET", "/minio/metrics/v3/api/requests")[1].decode()
        found = re.findall(r'^minio_api_requests_total\{name="(\w+)"[^}]*type="s3"\} ([\d.e+]+)$', text, re.MULTILINE)
        return collections.Counter({kind: round(float(count)) for kind, count in found})


# The load


# wrk's own report rounds; this one is read by a program. It counts what failed, an unexpected status too.
LUA = """\
{request}
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format("\\nREPORT %d %d %d %d %d %d\\n", summary.duration, summary.requests, summary.bytes,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""

# Each thread has its share of the paths, and goes through it in order, so that no file is asked for twice.
EACH = """\
local count = 0
function setup(thread) thread:set("number", count) count = count + 1 end
local next = 0
function request()
  local index = (next * {threads} + number) % {paths}
  next = next + 1
  return wrk.format("GET", string.format("{pattern}", index))
end
"""

Round = collections.namedtuple("Round", "requests requests_per_s mb_per_s p50_ms p99_ms cpu_us")


def wrk(server, path, connections, seconds, headers=(), each=None):
    """One round of load. `each`: so many paths, made of the pattern `path`, are asked for one after the other."""
    threads = min(2, connections)
    request = EACH.format(threads=threads, paths=each, pattern=path) if each else ""
    script = server.home / "wrk.lua"
    script.write_text(LUA.format(request=request))
    command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script)]
    command += itertools.chain.from_iterable(("-H", header) for header in headers)
    command.append(f"http://127.0.0.1:{server.port}{'/' if each else path}")
    cpu_s = server.cpu_s()
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    cpu_s = server.cpu_s() - cpu_s
    report = next(line for line in output.splitlines() if line.startswith("REPORT "))
    duration_us, requests, size, errors, p50_us, p99_us = map(int, report.split()[1:])
    assert errors == 0 and size > 0, f"{server.name} {path}: {output}"
    # Servers append to it, so they go on at its new end.
    if server.log.exists():
        os.truncate(server.log, 0)
    per_s = 1e6 / duration_us
    cpu_us = cpu_s / requests * 1e6 if requests else 0.0
    return Round(requests, requests * per_s, size * per_s / MB, p50_us / 1000, p99_us / 1000, cpu_us)


def turns(rounds, *measure, warm_up=True):
    """What each gives, in turns; one list for each. The first turn only warms up, if there is to be one."""
    results = [[] for _ in measure]
    for number in range(0 if warm_up else 1, rounds + 1):
        for one, list_ in zip(measure, results):
            result = one(number)
            if number > 0:
                list_.append(result)
    return results


def timed(act):
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


# The results


@dataclasses.dataclass
class Row:
    """A measured thing: ours, a peer's if it has one, and what was to be reached."""

    group: str
    what: str
    unit: str
    ours: float
    peer: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    """The least and the greatest ratio of a round."""
    target: str = ""
    """In words; empty if there is none."""
    kept: bool | None = None
    p99: tuple[float, float] | None = None
    """Milliseconds, ours and the peer's. The target of all is that ours is not greater."""
    p99_kept: bool | None = None
    note: str = ""


@dataclasses.dataclass
class Results:
    """The rows of a part, and on what they were measured."""

    part: str
    peer: str = ""
    """The heading of the peer's column."""
    about: str = ""
    """How it was measured, in a sentence or two."""
    measured: dict = dataclasses.field(default_factory=dict)
    rows: list[Row] = dataclasses.field(default_factory=list)
    tables: dict = dataclasses.field(default_factory=dict)
    """Whatever else a part has to say, for the tables of its own."""

    def add(self, group, what, unit, ours, peer=(), at_least=None, at_most=None, limit=None, p99=None, note=""):
        """`ours` and `peer` are the rounds, or one number each.

        `at_least`, `at_most`: what the ratio is to be. `limit`: what our own number is to be at most.
        """
        as_list = lambda value: list(value) if isinstance(value, (list, tuple)) else [value]
        ours, peer = as_list(ours), as_list(peer)
        ratios = list(map(operator.truediv, ours, peer)) if peer and all(peer) else []
        row = Row(group, what, unit, statistics.median(ours), note=note)
        if peer:
            row.peer = statistics.median(peer)
        if ratios:
            row.ratio, row.spread = statistics.median(ratios), (min(ratios), max(ratios))
        if at_least is not None:
            row.target, row.kept = f"≥ {at_least:g}", row.ratio >= at_least
        if at_most is not None:
            row.target, row.kept = f"≤ {at_most:g}", row.ratio <= at_most
        if limit is not None:
            row.target, row.kept = f"≤ {limit:g} {unit}", row.ours <= limit
        if p99:
            row.p99 = tuple(map(statistics.median, p99))
            row.p99_kept = row.p99[0] <= row.p99[1] * 1.005
        self.rows.append(row)
        peers = f" against {number(row.peer)}" if peer else ""
        ratio = f", ratio {row.ratio:.2f}" if row.ratio else ""
        tail = f", p99 {row.p99[0]:.2f} ms against {row.p99[1]:.2f} ms" if row.p99 else ""
        say(f"{self.part}: {group}, {what}: {number(row.ours)}{peers} {unit}{ratio} {row.target}{tail}")

    def save(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path):
        fields = json.loads(path.read_text())
        return cls(**{**fields, "rows": [Row(**row) for row in fields["rows"]]})

    def table(self):
        """Of Markdown. Marks: reached or not."""
        with_p99 = any(row.p99 for row in self.rows)
        head = ["", "release-server", self.peer, "ratio", "target"] + ["p99, ms", f"{self.peer}'s"] * with_p99
        lines = [head, ["---"] + ["--:"] * 3 + ["---"] + ["--:"] * 2 * with_p99]
        for group, rows in grouped(self.rows):
            for first, row in zip(itertools.chain([f"{group}, "], itertools.repeat("… ")), rows):
                with_unit = lambda value: f"{number(value)} {row.unit}" if value is not None else "–"
                ratio = f"{row.ratio:.2f}" if row.ratio else "–"
                cells = [first + row.what, with_unit(row.ours), row.note or with_unit(row.peer), ratio]
                cells.append(f"{row.target} {mark(row.kept)}".strip())
                if with_p99:
                    ours, peers = map(number, row.p99) if row.p99 else ("", "")
                    cells += [f"{ours} {mark(row.p99_kept)}".strip(), peers]
                lines.append(cells)
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    def footnote(self, with_machine=True):
        """How it was measured, and when and on what."""
        command = f"Command: `just prove {self.part}{' --quick' if self.measured['quick'] else ''}`."
        return " ".join(filter(None, [self.when_and_where() if with_machine else "", self.about, command]))

    def when_and_where(self):
        return f"{self.measured['date']}, {', '.join(self.measured['versions'])}; {self.measured['machine']}."


def grouped(rows):
    """Rows by their groups, in the order in which those begin."""
    groups = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups.items()


def number(value):
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def mark(kept):
    return {True: "✓", False: "✗", None: ""}[kept]


def machine():
    cpus = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in cpus if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kernel = platform.release().split("-")[0]
    return f"{os.cpu_count()} × {model}, {memory:.0f} GiB of memory, Linux {kernel}"


def first_line(*command):
    """Of what a program says of itself; some do so on standard error."""
    said = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return next(line for line in (said.stdout + said.stderr).splitlines() if line.strip()).strip()


def version_of(program):
    match program:
        case "nginx":
            return "nginx " + first_line("nginx", "-v").rpartition("/")[2]
        case "wrk":
            return "wrk " + re.search(r"[\d.]+\d", first_line("wrk", "-v"))[0]
        case "rustc":
            # Of these sources; a binary that is given by name may be built by another.
            return " ".join(first_line("rustc", "--version").split()[:2])
        case "MinIO":
            # It has no number where it was built from its module: minio/Dockerfile has.
            dockerfile = (ROOT / "minio/Dockerfile").read_text()
            return "MinIO " + re.search(r"^ARG MINIO_VERSION=v0\.0\.0-(\d+)", dockerfile, re.MULTILINE)[1]
        case _:
            return ""  # of no influence


# The command line that all parts have


def find_minio():
    """What `--minio` says unless it is given: the one that `.ci/run minio` has built."""
    if named := os.environ.get("RELEASE_SERVER_TEST_MINIO"):
        return pathlib.Path(named)
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    return max(cache.glob("release-server-ci/minio-*/minio"), default=None)


def options(parser):
    parser.add_argument("--binary", type=pathlib.Path, help="the server to measure [default: this one, built for release]")
    parser.add_argument("--minio", type=pathlib.Path, default=find_minio(), help="the MinIO [default: what `.ci/run minio` built]")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes; the numbers are rough")
    parser.add_argument("--home", type=pathlib.Path, help="where the files go [default: the system's temporary directory]")


def prepare(arguments, programs):
    """Says what is missing, builds the server."""
    missing = [program for program in programs if program != "MinIO" and shutil.which(program) is None]
    if missing:
        sys.exit(f"error: {' and '.join(missing)} not found; on Debian and Ubuntu: apt-get install {' '.join(missing)}")
    if "MinIO" in programs and not (arguments.minio and arguments.minio.is_file()):
        sys.exit("error: there is no MinIO; `.ci/run minio` builds one, `--minio PATH` names another")
    if arguments.binary is None:
        subprocess.run(["cargo", "build", "--release", "--locked"], cwd=ROOT, check=True)
        arguments.binary = TARGET / "release/release-server"
    arguments.binary = arguments.binary.resolve()
    many_files()


def measured(arguments, programs):
    versions = [first_line(arguments.binary, "--version"), *map(version_of, ["rustc", *programs])]
    return {
        "date": str(datetime.date.today()),
        "machine": machine(),
        "versions": [version for version in versions if version],
        "quick": arguments.quick,
    }


@contextlib.contextmanager
def workplace(arguments):
    """A temporary directory, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="release-server-bench-", dir=arguments.home) as home:
        yield pathlib.Path(home)


@dataclasses.dataclass
class Part:
    """Something that can be measured by itself."""

    name: str
    peer: str
    programs: list[str]
    """What it needs beside Python."""
    about: str
    """How it is measured, in a sentence or two."""
    measure: collections.abc.Callable
    """Adds its rows to the results: `measure(results, arguments, home)`."""
    table: collections.abc.Callable = Results.table
    """Makes Markdown of them."""

    def run(self, arguments):
        prepare(arguments, self.programs)
        results = Results(self.name, self.peer, self.about, measured(arguments, self.programs))
        with workplace(arguments) as home:
            self.measure(results, arguments, home)
        return results

    def main(self):
        """The command line: measures, and prints the table."""
        summary, _, details = sys.modules["__main__"].__doc__.partition("\n\n")
        parser = argparse.ArgumentParser(description=summary, epilog=details)
        options(parser)
        parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="save the results there as well")
        arguments = parser.parse_args()
        results = self.run(arguments)
        if arguments.json:
            results.save(arguments.json)
        print(f"{self.table(results)}\n\n{results.footnote()}")
