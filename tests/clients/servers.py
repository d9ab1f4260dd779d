"""Servers for the tests: ours on a store, and the MinIO below it. Each ends with its `with`."""

import contextlib
import datetime
import http.client
import os
import pathlib
import shutil
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.request

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TOKEN = "only-for-this-run"
ROOT = pathlib.Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait(what, holds, process=None, seconds=30):
    deadline = time.monotonic() + seconds
    while not holds():
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{what} ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} is not there after {seconds} s")
        time.sleep(0.02)


def answers(url, certificate=None):
    context = ssl.create_default_context(cafile=certificate) if certificate else None
    try:
        with urllib.request.urlopen(url, timeout=2, context=context):
            return True
    except (OSError, http.client.HTTPException):
        return False


def end(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Store:
    """Where a server keeps its releases: the settings that name it."""

    def __init__(self, name, settings):
        self.name, self.settings = name, settings


@contextlib.contextmanager
def directory():
    with tempfile.TemporaryDirectory() as folder:
        yield Store("directory", {"STORAGE_PATH": folder})


@contextlib.contextmanager
def minio(program):
    program = pathlib.Path(program)
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        endpoint = f"http://127.0.0.1:{port}"
        environment = os.environ | {"MINIO_ROOT_USER": TOKEN, "MINIO_ROOT_PASSWORD": TOKEN}
        # A bucket is a directory before the first start.
        os.mkdir(f"{folder}/releases")
        command = [program, "server", folder, "--quiet", "--address", f"127.0.0.1:{port}"]
        command += ["--console-address", f"127.0.0.1:{free_port()}"]
        with open(f"{folder}.log", "wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait("MinIO", lambda: answers(f"{endpoint}/minio/health/ready"), process)
            client = program.with_name("mc")
            alias = {"MC_HOST_here": f"http://{TOKEN}:{TOKEN}@127.0.0.1:{port}", "MC_CONFIG_DIR": f"{folder}/.mc"}
            subprocess.run([client, "--quiet", "mb", "--ignore-existing", "here/releases"], check=True,
                           env=os.environ | alias, stdout=subprocess.DEVNULL)
            yield Store("MinIO", {
                "STORAGE_URL": "s3://releases",
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_ALLOW_HTTP": "true",
                "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": TOKEN,
                "AWS_SECRET_ACCESS_KEY": TOKEN,
            })
        finally:
            end(process)
            pathlib.Path(f"{folder}.log").unlink(missing_ok=True)


def certify(folder):
    """A key and a certificate for `localhost` that is its own authority, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    files = {"certificate": certificate.public_bytes(pem),
             "key": key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)}
    for name, content in files.items():
        pathlib.Path(folder, name).write_bytes(content)
    return f"{folder}/certificate", f"{folder}/key"


class Server:
    """Our server on a store, at a port of its own; `settings` are variables of its environment."""

    def __init__(self, program, store, tls=False, **settings):
        self.port = free_port()
        self.url = f"{'https' if tls else 'http'}://{'localhost' if tls else '127.0.0.1'}:{self.port}"
        self.program = str(program)
        self.folder = tempfile.mkdtemp()
        self.certificate = None
        if tls:
            self.certificate, key = certify(self.folder)
            settings |= {"TLS__CERTIFICATE": self.certificate, "TLS__KEY": key}
        self.log = f"{self.folder}/log"
        self.environment = {name: value for name, value in os.environ.items() if name != "CONFIG_PATH"}
        self.environment |= {"AUTH_TOKEN": TOKEN, "BIND_ADDRESS": "127.0.0.1", "PORT": str(self.port)}
        self.environment |= store.settings | settings
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([self.program], env=self.environment, stdout=log, stderr=log)
        wait("the server", lambda: answers(f"{self.url}/readyz", self.certificate), self.process)
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self.start()

    def __exit__(self, *failure):
        end(self.process)
        if failure[0] is not None:
            with open(self.log, encoding="utf-8", errors="replace") as log:
                print("the server's last lines:", *log.readlines()[-20:], sep="\n")
        shutil.rmtree(self.folder)


class Forwarder(socketserver.ThreadingUnixStreamServer):
    """A unix socket that leads to a port: `gh` dials it for every address, without TLS."""

    daemon_threads = True
    request_queue_size = 64

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.server.port)) as there:
                back = threading.Thread(target=self.copy, args=(there, self.request), daemon=True)
                back.start()
                self.copy(self.request, there)
                back.join()

        @staticmethod
        def copy(source, target):
            with contextlib.suppress(OSError):
                while piece := source.recv(65536):
                    target.sendall(piece)
            # The other direction goes on until its own end; a connection that broke has none.
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)

    def __init__(self, path, port):
        self.port = port
        super().__init__(path, self.Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *failure):
        self.shutdown()
        super().__exit__(*failure)
