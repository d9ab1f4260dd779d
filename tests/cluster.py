#!/usr/bin/env python3
"""The chart on a real Kubernetes: installed, used, changed under load, broken, and taken away again.

    tests/cluster.py            whatever cluster KUBECONFIG names
    tests/cluster.py --keep     leaves the namespace there, to look around

It makes one namespace, which enforces the pod security standard "restricted", and removes it at the end; cluster-wide
it touches nothing. Every step asserts; a table at the end says what was seen. It takes helm, kubectl, a default
storage class, and that the cluster addresses of Services answer from here. Variables:

    IMAGE, MINIO_IMAGE   the images, `release-server:latest` and `release-server-minio:latest` unless set
    IMAGE_LOAD           a command that brings images into the cluster, such as `kind load docker-image`; both names are
                         appended. Not set: they are there already.
    PROMETHEUS           a Prometheus to scrape the servers with, if it is not in the PATH; without one, the dashboard's
                         queries and the alerts are not tried.

The load is made by clients here, through the Service, each over connections of its own: some keep theirs open, as
proxies do, some make one a request, as `curl` does.
"""

import argparse
import base64
import contextlib
import dataclasses
import hashlib
import http.client
import json
import math
import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "release-server"
IMAGE = os.environ.get("IMAGE", "release-server:latest")
MINIO_IMAGE = os.environ.get("MINIO_IMAGE", "release-server-minio:latest")
NAMESPACE = f"release-server-test-{os.getpid()}"

CLIENTS = 32
# Of these, so many upload slowly: longer than the pause before a stop, so that every server is in the middle of some.
SLOW_CLIENTS = 6
SLOW_SECONDS = 8

STEPS = []  # (name, seconds, what was seen)


# --- The steps ---------------------------------------------------------------------------------------------------------


def main():
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--keep", action="store_true", help="leave the namespace there")
    arguments = arguments.parse_args()

    print(f"namespace {NAMESPACE}, images {IMAGE} and {MINIO_IMAGE}")
    if load := os.environ.get("IMAGE_LOAD"):
        run(*shlex.split(load), IMAGE, MINIO_IMAGE)
    started = time.monotonic()
    try:
        for step in (
            restricted_namespace,
            bucket,
            start_prometheus,
            install,
            first_session,
            helm_test,
            upgrade_keeps_the_token,
            rollback,
            refused_upgrade,
            pod_killed_during_uploads,
            rolling_restart_under_load,
            upgrade_under_load,
            metrics,
            dashboard,
            tls,
            cron_job_sweeps,
            volume,
            uninstall_leaves_the_bucket,
        ):
            name = step.__name__.replace("_", " ")
            print(f"\n--- {name} ({time.monotonic() - started:.0f} s)", flush=True)
            begun = time.monotonic()
            try:
                seen = step()
            except BaseException:
                STEPS.append((name, time.monotonic() - begun, "FAILED"))
                raise
            STEPS.append((name, time.monotonic() - begun, seen))
            print(seen, flush=True)
    except BaseException:
        explain()
        raise
    finally:
        if PROMETHEUS.process:
            PROMETHEUS.process.terminate()
        if not arguments.keep:
            # Without the charts' clean-up: nothing in the namespace is to stay.
            kubectl("delete", "namespace", NAMESPACE, "--timeout=180s", check=False, namespace=False)
        print(f"\n{'step':<30} {'seconds':>7}  seen")
        for name, seconds, seen in STEPS:
            print(f"{name:<30} {seconds:>7.1f}  {seen}")
    print(f"\ncluster: {len(STEPS)} steps passed in {time.monotonic() - started:.0f} s")


def restricted_namespace():
    """Where what is not restricted is refused, so that all of the rest shows that the chart is."""
    version = json.loads(kubectl("version", "--output=json", namespace=False))["serverVersion"]["gitVersion"]
    kubectl("create", "namespace", NAMESPACE, namespace=False)
    kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted", namespace=False)
    refused = kubectl("run", "root", f"--image={IMAGE}", check=False, whole=True)
    expect(
        refused.returncode != 0 and 'violates PodSecurity "restricted' in refused.stderr,
        f"a pod that is not restricted was let in: {refused.stdout}{refused.stderr}",
    )
    return f"Kubernetes {version}; a pod that may be root is refused"


def bucket():
    """A MinIO by the chart, as in a trial; the other releases use its bucket under prefixes of their own."""
    helm_install("store", {"minio": {"enabled": True, "image": image(MINIO_IMAGE), "size": "2Gi"}, "replicaCount": 1})
    restarts = [status["restartCount"] for pod in pods("store") for status in pod["status"]["containerStatuses"]]
    expect(sum(restarts) == 0, f"containers started more than once: {restarts}")
    helm("test", "store", "--timeout=2m")
    # For the others, as an operator would have it.
    keys = secret("store-release-server-minio")
    kubectl(
        "create",
        "secret",
        "generic",
        "bucket-keys",
        *(f"--from-literal={name}={keys[name]}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")),
    )
    return "MinIO and a bucket, first start without a restart; helm test passed"


def install():
    notes = helm_install("gw", on_bucket("gw"))
    expect("plain http" in notes, "the notes do not warn of a store without encryption")
    ready = [pod for pod in pods("gw") if condition(pod, "Ready")]
    expect(len(ready) == 2, f"{len(ready)} pods are ready, not 2")
    expect(all(not pod["spec"].get("automountServiceAccountToken") for pod in ready), "a pod has an API token")
    return "2 servers ready; the token's Secret made"


def first_session():
    server = Server("gw")
    wrong = Server("gw", token="wrong").put("first.bin", b"x")
    expect(wrong.status == 401, f"a wrong token was answered with {wrong.status}")
    body = os.urandom(100_000)
    expect((answer := server.put("first.bin", body)).status == 200, f"{answer}")
    expect(server.put("first.bin", body).status == 409, "a second upload of the name was taken")
    large = os.urandom(30_000_000)  # goes to the bucket in parts
    expect(server.put("large.bin", large).status == 200, "the large upload failed")
    # Each connection may meet the other server; both must have it at once.
    for _ in range(20):
        listing = server.get("/latest", reuse=False).json()
        names = [asset["name"] for asset in listing["assets"]]
        expect(names == ["large.bin", "first.bin"], f"/latest has {names}")
    expect(server.get("/assets/first.bin").body == body, "other bytes came back")
    expect(server.get("/assets/large.bin").body == large, "other bytes came back")
    return "token checked, 0.1 and 30 MB up and down, /latest fresh 20 times of 20"


def helm_test():
    output = helm("test", "gw", "--logs", "--timeout=3m")
    expect(output.count("Succeeded") == 2, output)
    expect("All" in output and "probes passed" in output, "the doctor said nothing")
    expect("deleted `helm-test.txt`" in output, "the client's test did not go through")
    return "doctor, and upload, download, delete through the Service"


def upgrade_keeps_the_token():
    before, token = pod_names("gw"), secret("gw-release-server-token")["token"]
    expect(Server("gw", token=None).get("/packages").status == 200, "reads are not public at first")
    values = on_bucket("gw")
    values["config"]["auth"] = {"private_reads": True}
    helm_upgrade("gw", values)
    expect(not before & pod_names("gw"), "a changed configuration did not make new pods")
    expect(secret("gw-release-server-token")["token"] == token, "the token is another one")
    expect(Server("gw", token=None).get("/packages").status == 401, "the new configuration is not in effect")
    expect(Server("gw").get("/packages").status == 200, "the token does not hold any more")
    return "pods replaced, setting in effect, the token is the same"


def rollback():
    token = secret("gw-release-server-token")["token"]
    helm("rollback", "gw", "--wait", "--timeout=3m")
    kubectl("rollout", "status", "deployment/gw-release-server", "--timeout=3m")
    until(lambda: len(pod_names("gw")) == 2, "the old pods are gone")
    expect(secret("gw-release-server-token")["token"] == token, "the token is another one")
    expect(Server("gw", token=None).get("/packages").status == 200, "the old configuration is not in effect")
    return "setting back, the token is the same, packages there"


def refused_upgrade():
    values = on_bucket("gw") | {"replicaCount": 2, "storage": {"type": "pvc"}}
    refused = helm_command("upgrade", "gw", values, check=False)
    expect(refused.returncode != 0 and "set replicaCount=1" in refused.stderr, refused.stderr)
    expect(Server("gw").get("/packages").status == 200, "the release does not answer any more")
    return "two servers on a volume of one node: refused, and how to do it is said"


def pod_killed_during_uploads():
    """Uploads that a killed server was in the middle of are made again, and create only once; nothing half is seen."""
    server = Server("gw")
    slow = [SlowUpload(f"killed-{number}.bin", 20) for number in range(8)]
    watcher = Watcher("killed-", slow[0].size)
    with watcher:
        threads = [threading.Thread(target=upload.until_acknowledged) for upload in slow]
        for thread in threads:
            thread.start()
        time.sleep(6)
        victim = sorted(pod_names("gw"))[0]
        # No time to end anything: SIGKILL within two seconds.
        kubectl("delete", "pod", victim, "--grace-period=1", "--wait=false")
        for thread in threads:
            thread.join()
    expect(all(upload.acknowledged for upload in slow), "an upload was not acknowledged in five tries")
    again = sum(upload.tries - 1 for upload in slow)
    expect(again > 0, "the killed pod had no upload; nothing was tried")
    expect(watcher.partial == 0 and watcher.reads > 0, f"{watcher.partial} of {watcher.reads} listings had a part")
    lost = [upload.name for upload in slow if server.get(f"/assets/{upload.name}").digest != upload.digest]
    expect(not lost, f"lost, or other bytes: {lost}")
    kubectl("rollout", "status", "deployment/gw-release-server", "--timeout=2m")
    for upload in slow:
        server.delete(upload.name)
    return f"8 uploads, {again} cut and made again, 0 lost, no part in {watcher.reads} listings"


def rolling_restart_under_load():
    def restart():
        kubectl("rollout", "restart", "deployment/gw-release-server")
        kubectl("rollout", "status", "deployment/gw-release-server", "--timeout=5m")

    return under_load("restart", restart)


def upgrade_under_load():
    values = on_bucket("gw")
    values["config"]["cache"] = {"total_bytes": 16777216}
    return under_load("upgrade", lambda: helm_upgrade("gw", values))


def under_load(name, change):
    before = pod_names("gw")
    with Load(name) as load:
        load.until(300)
        begun = time.monotonic()
        change()
        until(lambda: len(pod_names("gw")) == 2 and not before & pod_names("gw"), "both pods are new")
        seconds = time.monotonic() - begun
        time.sleep(3)
    expect(not load.failures, f"{len(load.failures)} requests failed: {load.failures[:5]}")
    server = Server("gw")
    lost = [name for name, digest in load.uploads.items() if server.get(f"/assets/{name}").digest != digest]
    expect(not lost, f"{len(lost)} of {len(load.uploads)} uploads are lost: {lost[:5]}")
    expect(load.slow >= SLOW_CLIENTS, "no slow upload ended")
    for name in load.uploads:
        server.delete(name)
    return (
        f"{CLIENTS} clients, both pods new in {seconds:.0f} s: {load.requests} requests, 0 failed; "
        f"{len(load.uploads)} uploads ({load.slow} over {SLOW_SECONDS} s each), 0 lost; {load.reconnected} kept connections "
        f"were closed while idle"
    )


def metrics():
    """What each server says on its port for metrics, which is no port of the public Service."""
    addresses = metrics_addresses()
    expect(len(addresses) == 2, f"the Service for metrics has {addresses}")
    series = 0
    for address in addresses:
        connection = http.client.HTTPConnection(address, 9090, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        expect("release_server_build_info" in text, f"{address} has no metrics of ours")
        series += sum(not line.startswith("#") for line in text.splitlines())
    expect(Server("gw").get("/metrics").status == 404, "the metrics are public")
    return f"{series} series from 2 servers, none on the public port"


def start_prometheus():
    """Here, not in the cluster; it scrapes what is behind the Service for metrics."""
    return PROMETHEUS.start()


def dashboard():
    """Every query of the dashboard and every alert, after all that the steps before have done."""
    if not PROMETHEUS.process:
        return "SKIPPED: there is no Prometheus"
    board = json.loads((CHART / "dashboards" / "release-server.json").read_text())
    variables = {"$namespace": NAMESPACE, "$job": "gw-release-server-metrics", "$__rate_interval": "10m"}
    empty, queries = [], 0
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            for name, value in variables.items():
                query = query.replace(name, value)
            queries += 1
            values = [float(sample["value"][1]) for sample in PROMETHEUS.query(query)]
            # Where nothing happened, a quantile is not a number: `head` may not have been asked for.
            if all(math.isnan(value) for value in values):
                empty.append(f"{panel['title']}: {query}: {values}")
    expect(not empty, "no data for\n" + "\n".join(empty))

    (group,) = PROMETHEUS.api("rules")["groups"]
    broken = [f"{rule['name']}: {rule.get('lastError')}" for rule in group["rules"] if rule["health"] != "ok"]
    expect(not broken, f"rules that cannot be evaluated: {broken}")
    firing = [alert["labels"]["alertname"] for alert in PROMETHEUS.api("alerts")["alerts"] if alert["state"] == "firing"]
    expect(not firing, f"alerts without a reason: {firing}")
    return f"{queries} queries of {len(board['panels'])} panels have data; {len(group['rules'])} alerts, none fires"


def tls():
    """HTTPS in the process, with a certificate of an authority that only the Secret names."""
    name = "secure-release-server"
    with tempfile.TemporaryDirectory() as directory:
        new = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
        ca, ca_key, key, crt = (f"{directory}/{file}" for file in ("ca.crt", "ca.key", "tls.key", "tls.crt"))
        run(*new, "-subj", "/CN=test CA", "-keyout", ca_key, "-out", ca)
        # A leaf, as the client does not take an authority's certificate for a server's.
        run(
            *(*new, "-subj", f"/CN={name}", "-CA", ca, "-CAkey", ca_key, "-keyout", key, "-out", crt),
            *("-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"),
        )
        kubectl("create", "secret", "generic", "tls", *(f"--from-file={file}" for file in (ca, key, crt)))
    helm_install("secure", on_bucket("secure") | {"tls": {"enabled": True, "existingSecret": "tls"}})
    output = helm("test", "secure", "--logs", "--timeout=3m")
    expect(f"https://{name}:443/assets/helm-test.txt" in output or f"https://{name}/assets/helm-test.txt" in output, output)
    helm("uninstall", "secure", "--wait")
    return "probes over HTTPS, upload and download with the Secret's ca.crt"


def cron_job_sweeps():
    """Only the job removes, and not at its first look at a store."""
    values = on_bucket("swept") | {"sweep": {"mode": "cronJob", "schedule": "* * * * *"}}
    values["config"]["max_packages"] = 2
    helm_install("swept", values)
    server = Server("swept")
    names = [f"package-{number}.bin" for number in range(5)]
    for name in names:
        expect(server.put(name, name.encode()).status == 200, f"{name} was not taken")
    scheduled = until(lambda: succeeded_jobs("swept-release-server-sweep"), "the schedule has made a job", 150)
    suspend("swept")
    there = [name for name in names if server.get(f"/assets/{name}").status == 200]
    expect(there == names, f"the first sweep removed something: {there} are there")
    kubectl("create", "job", "again", "--from=cronjob/swept-release-server-sweep")
    kubectl("wait", "--for=condition=complete", "job/again", "--timeout=90s")
    there = [name for name in names if server.get(f"/assets/{name}").status == 200]
    expect(there == names[3:], f"after the second sweep there are {there}")
    helm("uninstall", "swept", "--wait")
    return f"{len(scheduled)} by schedule removed nothing, as a first look must; the next one 3 of 5"


def suspend(release):
    patch = {"spec": {"suspend": True}}
    kubectl("patch", "cronjob", f"{release}-release-server-sweep", "--patch", json.dumps(patch))


def succeeded_jobs(cron_job):
    jobs = [job for job in get("jobs")["items"] if job["metadata"]["name"].startswith(cron_job)]
    return [job for job in jobs if job["status"].get("succeeded")]


def volume():
    values = common() | {"storage": {"type": "pvc", "pvc": {"size": "1Gi"}}, "sweep": {"mode": "cronJob"}}
    helm_install("disk", values)
    server, body = Server("disk"), os.urandom(3_000_000)
    expect(server.put("kept.bin", body).status == 200, "the upload failed")
    helm("test", "disk", "--timeout=3m")
    token = secret("disk-release-server-token")["token"]

    old = pod_names("disk")
    values["config"]["log"] = {"level": "debug"}
    helm_upgrade("disk", values)
    expect(len(old) == 1 and not old & pod_names("disk"), "there is no new pod")
    until(lambda: answers("disk"), "the new pod answers")
    expect(Server("disk").get("/assets/kept.bin").body == body, "the package is lost by an upgrade")

    kubectl("create", "job", "disk-sweep", "--from=cronjob/disk-release-server-sweep")
    kubectl("wait", "--for=condition=complete", "job/disk-sweep", "--timeout=90s")

    kubectl("delete", "pod", *pod_names("disk"), "--grace-period=1")
    until(lambda: answers("disk"), "the new pod answers")
    expect(Server("disk").get("/assets/kept.bin").body == body, "the package is lost by a kill")

    helm("uninstall", "disk", "--wait")
    helm_install("disk", values)
    expect(secret("disk-release-server-token")["token"] == token, "the token is another one")
    expect(Server("disk").get("/assets/kept.bin").body == body, "the package is lost by uninstalling")
    helm("uninstall", "disk", "--wait")
    return "the package outlives upgrade, kill, uninstall and install; doctor and sweep run beside the server"


def uninstall_leaves_the_bucket():
    before = objects()
    token = secret("gw-release-server-token")["token"]
    listing = Server("gw").get("/packages").json()
    helm("uninstall", "gw", "--wait")
    until(lambda: not pods("gw"), "the pods are gone")
    expect(objects() == before, "the bucket is not as it was")
    helm_install("gw", on_bucket("gw"))
    again = Server("gw").get("/packages").json()
    facts = [(package["name"], package["sha256"], package["created_at"]) for package in listing]
    expect([(p["name"], p["sha256"], p["created_at"]) for p in again] == facts, "installed again, it lists otherwise")
    expect(secret("gw-release-server-token")["token"] == token, "the token is another one")
    # And the trial's own bucket.
    helm("uninstall", "gw", "--wait")
    helm("uninstall", "store", "--wait")
    helm_install("store", {"minio": {"enabled": True, "image": image(MINIO_IMAGE), "size": "2Gi"}, "replicaCount": 1})
    expect(set(before) <= set(objects()), "the trial's bucket lost objects")
    return f"{len(before)} objects and {len(facts)} packages as before; the token too"


# --- Load --------------------------------------------------------------------------------------------------------------


class Load:
    """CLIENTS at once until the end of the block: each publishes a package, reads it back, and reads /latest.

    A failure is any answer but the one it must be, and any connection that breaks with a request on it. The one
    exception is HTTP's own (RFC 9112, section 9.3.1): a kept connection that the server has closed while it was idle,
    found out when the next request is sent; that is made again on a new one, and counted. Had the first one been worked
    on, an upload's repetition would be refused with 409, which is a failure.
    """

    def __init__(self, name):
        self.name = name
        self.failures = []
        self.uploads = {}
        self.requests = self.slow = self.reconnected = 0
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.client, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def until(self, requests):
        until(lambda: self.requests >= requests, f"{requests} requests")

    def client(self, number):
        server = Server("gw", reuse=number % 2 == 0)
        turn = 0
        try:
            while not self.stopping.is_set():
                turn += 1
                name = f"{self.name}-{number}-{turn}.bin"
                if number < SLOW_CLIENTS:
                    upload = SlowUpload(name, SLOW_SECONDS)
                    if self.note(server, f"slow PUT {name}", upload.once, 200):
                        self.store(name, upload.digest)
                        self.slow += 1
                    continue
                body = os.urandom(50_000)
                if not self.note(server, f"PUT {name}", lambda: server.put(name, body), 200):
                    continue
                digest = hashlib.sha256(body).hexdigest()
                self.store(name, digest)
                back = self.note(server, f"GET {name}", lambda: server.get(f"/assets/{name}"), 200)
                if back and back.digest != digest:
                    self.failures.append(f"GET {name}: other bytes")
                latest = self.note(server, "GET /latest", lambda: server.get("/latest"), 200)
                if latest and not any(asset["name"] == name for asset in latest.json()["assets"]):
                    self.failures.append(f"GET /latest: {name} is not there")
        except Exception as error:  # or the thread would end unseen
            self.failures.append(f"client {number}: {error!r}")
        self.reconnected += server.reconnected

    def store(self, name, digest):
        with self.lock:
            self.uploads[name] = digest

    def note(self, server, what, request, status):
        begun = time.monotonic()
        try:
            answer = request()
        except (OSError, http.client.HTTPException) as error:
            server.close()
            answer, problem = None, repr(error)
        else:
            problem = None if answer.status == status else f"{answer.status} {answer.body[:200]}"
        with self.lock:
            self.requests += 1
            if problem:
                self.failures.append(f"{what} after {time.monotonic() - begun:.1f} s: {problem}")
        return None if problem else answer


class SlowUpload:
    """An upload that takes `seconds`, over a connection of its own."""

    def __init__(self, name, seconds):
        self.name, self.seconds = name, seconds
        self.chunk = os.urandom(50_000)
        self.size = 10 * seconds * len(self.chunk)
        self.digest = hashlib.sha256(self.chunk * (10 * seconds)).hexdigest()
        self.tries, self.acknowledged = 0, False

    def chunks(self):
        for _ in range(10 * self.seconds):
            yield self.chunk
            time.sleep(0.1)

    def once(self):
        return Server("gw", reuse=False).put(self.name, self.chunks(), self.size)

    def until_acknowledged(self):
        while self.tries < 5 and not self.acknowledged:
            self.tries += 1
            try:
                status = self.once().status
                # A try that was cut may have been stored all the same: the bytes are compared at the end.
                self.acknowledged = status == 200 or (status == 409 and self.tries > 1)
            except (OSError, http.client.HTTPException):
                pass


class Watcher:
    """Reads the listing all the time, and counts those in which a package of ours is not whole."""

    def __init__(self, prefix, size):
        self.prefix, self.size = prefix, size
        self.reads = self.partial = 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()

    def watch(self):
        server = Server("gw", reuse=False)
        while not self.stopping.wait(0.1):
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = server.get("/packages")
                if answer.status == 200:
                    self.reads += 1
                    sizes = [p["size"] for p in answer.json() if p["name"].startswith(self.prefix)]
                    self.partial += any(size != self.size for size in sizes)


# --- HTTP --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Answer:
    status: int
    body: bytes

    @property
    def digest(self):
        return hashlib.sha256(self.body).hexdigest() if self.status == 200 else None

    def json(self):
        return json.loads(self.body)


ADDRESSES = {}
TOKENS = {}


class Server:
    """A release's Service. For one thread."""

    def __init__(self, release, token=..., reuse=True):
        name = f"{release}-release-server"
        if name not in ADDRESSES:
            ADDRESSES[name] = get("service", name)["spec"]["clusterIP"]
            TOKENS[name] = secret(f"{name}-token")["token"]
        self.address = ADDRESSES[name]
        self.token = TOKENS[name] if token is ... else token
        self.reuse = reuse
        self.connection = None
        self.reconnected = 0

    def get(self, path, reuse=None):
        return self.request("GET", path, None, {"Accept": "application/json"}, reuse)

    def put(self, name, body, size=None):
        return self.request("PUT", f"/assets/{name}", body, {"Content-Length": str(size or len(body))})

    def delete(self, name):
        return self.request("DELETE", f"/assets/{name}", None, {})

    def request(self, method, path, body, headers, reuse=None):
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if not (self.reuse if reuse is None else reuse):
            headers["Connection"] = "close"
            self.close()
        kept = self.connection is not None
        while True:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(self.address, 80, timeout=60)
            try:
                self.connection.request(method, path, body, headers)
                answer = self.connection.getresponse()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.close()
                if not kept:
                    raise
                kept = False
                self.reconnected += 1
                continue
            answer = Answer(answer.status, answer.read())
            if headers.get("Connection") == "close":
                self.close()
            return answer

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


# --- Prometheus --------------------------------------------------------------------------------------------------------


class Prometheus:
    process = None

    def start(self):
        program = os.environ.get("PROMETHEUS") or shutil.which("prometheus")
        if not program:
            return "SKIPPED: there is no Prometheus"
        home = pathlib.Path(tempfile.mkdtemp(prefix="prometheus-"))
        values = home / "values.json"
        values.write_text(json.dumps(on_bucket("gw") | {"metrics": {"prometheusRule": {"enabled": True}}}))
        rendered = run("helm", "template", "gw", CHART, "--namespace", NAMESPACE, "--values", values, "--show-only", RULES).stdout
        # The object's `spec` is what a file of rules holds.
        (home / "rules.yaml").write_text(textwrap.dedent(rendered.partition("\nspec:\n")[2]))
        self.targets = home / "targets.json"
        job = {"job_name": "servers", "file_sd_configs": [{"files": [str(self.targets)], "refresh_interval": "2s"}]}
        self.find_servers()
        threading.Thread(target=self.keep_finding, daemon=True).start()
        config = {"global": {"scrape_interval": "3s", "evaluation_interval": "3s"}, "rule_files": ["rules.yaml"]}
        (home / "prometheus.yml").write_text(json.dumps(config | {"scrape_configs": [job]}))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [
                *(program, f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data"),
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=(home / "log").open("w"),
        )
        until(self.ready, f"Prometheus answers; its log is {home}/log", 30)
        return f"at http://127.0.0.1:{self.port}, with the chart's rules"

    def keep_finding(self):
        while self.process is None or self.process.poll() is None:
            time.sleep(2)
            with contextlib.suppress(Failed):
                self.find_servers()

    def find_servers(self):
        """Not by Prometheus' own discovery, which Debian builds without Kubernetes."""
        labels = {"namespace": NAMESPACE, "job": "gw-release-server-metrics"}
        targets = [f"{address}:9090" for address in metrics_addresses()]
        # At once, so that no half of it is read.
        new = self.targets.with_suffix(".new")
        new.write_text(json.dumps([{"targets": targets, "labels": labels}]))
        new.rename(self.targets)

    def ready(self):
        with contextlib.suppress(OSError):
            return bool(self.api("rules")["groups"])

    def query(self, query):
        return self.api("query?" + urllib.parse.urlencode({"query": query}))["result"]

    def api(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]


PROMETHEUS = Prometheus()
RULES = "templates/prometheusrule.yaml"


# --- The cluster -------------------------------------------------------------------------------------------------------


def image(name):
    repository, _, tag = name.rpartition(":")
    return {"repository": repository, "tag": tag}


def common():
    return {"image": image(IMAGE), "config": {"max_packages": 0}}


def on_bucket(prefix):
    return common() | {
        "storage": {
            "s3": {
                "bucket": "releases",
                "prefix": prefix,
                "endpoint": "http://store-release-server-minio:9000",
                "existingSecret": "bucket-keys",
            }
        }
    }


def helm_install(release, values):
    notes = helm_command("install", release, common() | values).stdout
    ADDRESSES.pop(f"{release}-release-server", None)
    if "tls" not in values:
        # Ready pods are known to the nodes' proxies a moment later.
        until(lambda: answers(release), f"`{release}` answers through its Service")
    return notes


def answers(release):
    with contextlib.suppress(OSError):
        return Server(release).get("/readyz").status == 200


def helm_upgrade(release, values):
    helm_command("upgrade", release, values)
    # The old pods may still have something to end.
    replicas = get("deployment", f"{release}-release-server")["spec"]["replicas"]
    until(lambda: len(pod_names(release)) == replicas, "the old pods are gone")


def helm_command(command, release, values, check=True):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        return run(
            *("helm", command, release, CHART, "--namespace", NAMESPACE),
            *("--values", file.name, "--wait", "--timeout=4m"),
            check=check,
        )


def helm(command, release, *arguments):
    return run("helm", command, release, "--namespace", NAMESPACE, *arguments).stdout


def kubectl(*arguments, check=True, whole=False, namespace=True):
    done = run("kubectl", *(("--namespace", NAMESPACE) if namespace else ()), *arguments, check=check)
    return done if whole else done.stdout


def get(*what, selector=""):
    return json.loads(kubectl("get", *what, f"--selector={selector}" if selector else "--output=json", "--output=json"))


def secret(name):
    return {key: base64.b64decode(value).decode() for key, value in get("secret", name)["data"].items()}


def pods(release):
    selector = f"app.kubernetes.io/instance={release},app.kubernetes.io/component in (server, minio)"
    return get("pods", selector=selector)["items"]


def pod_names(release):
    """The servers' pods, those that are ending too."""
    selector = f"app.kubernetes.io/instance={release},app.kubernetes.io/component=server"
    return {pod["metadata"]["name"] for pod in get("pods", selector=selector)["items"]}


def metrics_addresses():
    """Those behind the Service for metrics, which a ServiceMonitor would find."""
    slices = get("endpointslices", selector="kubernetes.io/service-name=gw-release-server-metrics")["items"]
    return [address for part in slices for endpoint in part["endpoints"] or [] for address in endpoint["addresses"]]


def condition(pod, kind):
    return any(c["type"] == kind and c["status"] == "True" for c in pod["status"]["conditions"])


def objects():
    """Every object of the bucket with its ETag."""
    listing = kubectl(
        *("exec", "deployment/store-release-server-minio", "--container=minio", "--", "sh", "-c"),
        'MC_CONFIG_DIR=/tmp/mc MC_HOST_here="http://$MINIO_ROOT_USER:$MINIO_ROOT_PASSWORD@127.0.0.1:9000" '
        "mc --json ls --recursive here/releases",
    )
    entries = (json.loads(line) for line in listing.splitlines())
    return {entry["key"]: entry["etag"] for entry in entries}


def run(*command, check=True):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if check and done.returncode != 0:
        words = " ".join(str(part) for part in command)
        raise Failed(f"`{words}` ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Failed(Exception):
    pass


def expect(holds, otherwise):
    if not holds:
        raise Failed(otherwise)


def until(holds, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not (seen := holds()):
        expect(time.monotonic() < deadline, f"not within {seconds} s: {what}")
        time.sleep(0.5)
    return seen


def explain():
    """What an operator would look at first."""
    with contextlib.suppress(Exception):
        print(kubectl("get", "pods,jobs", "--output=wide", check=False))
        print("\n".join(kubectl("get", "events", "--sort-by=.lastTimestamp", check=False).splitlines()[-15:]))
        for pod in get("pods")["items"]:
            name = pod["metadata"]["name"]
            lines = kubectl("logs", name, "--all-containers", "--tail=8", check=False).splitlines()
            print("\n".join([f"\n{name}:", *(line[:300] for line in lines)]))


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"FAILED: {failure}")
