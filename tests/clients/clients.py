"""The clients, each with the same operations.

An operation returns None if it did what it is to do, raises if it did not, and is a text where the client has no such
thing: the text says why. `what` is what all clients publish: a `Case`.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import zipfile

import github

from servers import TOKEN, Forwarder, Server

CLIENTS = pathlib.Path(os.environ["CLIENTS"])
HERE = pathlib.Path(__file__).parent

OPERATIONS = ["draft", "upload", "publish", "list", "view", "tag", "latest", "replace", "edit", "drop", "delete"]


class Case:
    """A release with its files: what is to be there at each moment."""

    def __init__(self, folder):
        self.tag, self.title = "v1.0.0+build/1", "One «1»"
        self.notes, self.edited = "# First\n\n* a & b\n", "Edited: `x` < y\n"
        self.folder = pathlib.Path(folder) / "files"
        self.folder.mkdir()
        self.replaced = "app-1.0.0.json"
        files = {
            self.replaced: b'{"json": true}\n',
            "app-linux-amd64.tar.gz": bytes(range(256)) * 20_000,
            "app_windows_amd64.zip": b"PK\x03\x04" + os.urandom(300_000),
            "checksums.txt": b"plain\r\ntext\n",
            "index.html": b"<script>alert(1)</script>",
            "empty.bin": b"",
            "large.bin": os.urandom(9 * 1024 * 1024),
        }
        for name, content in files.items():
            (self.folder / name).write_bytes(content)
        self.names = list(files)
        self.dropped = "empty.bin"
        self.other = pathlib.Path(folder) / "other" / self.replaced
        self.other.parent.mkdir()
        self.other.write_bytes(b'{"json": "another"}\n')
        self.work = pathlib.Path(folder) / "work"
        self.work.mkdir()

    def paths(self):
        return [str(self.folder / name) for name in self.names]

    def fresh(self, name):
        """An empty folder."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def same(self, folder):
        """Whether a folder has all files and no other, byte for byte."""
        found = {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}
        expect(sorted(found), sorted(self.names))
        for name, content in found.items():
            if content != (self.folder / name).read_bytes():
                raise AssertionError(f"{name} has other bytes")


def expect(found, expected):
    if found != expected:
        raise AssertionError(f"{found!r} is not {expected!r}")


def run(*command, env=None, cwd=None, text=None):
    """The output of a command that is to succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, input=text,
                          env=os.environ | (env or {}), cwd=cwd, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise AssertionError(f"`{pathlib.Path(command[0]).name} {' '.join(map(str, command[1:4]))} …`: {said[-900:]}")
    return done.stdout


class Gh:
    """GitHub's own command line; with `github.localhost` it speaks plain HTTP to the host `api.` of that."""

    name, needs = "gh", {}

    def __init__(self, server, case):
        self.case = case
        self.repository = f"acme/{self.name}"
        self.forwarder = None
        folder = case.fresh("config")
        self.env = {
            "GH_CONFIG_DIR": str(folder), "GH_PROMPT_DISABLED": "1", "NO_COLOR": "1", "GH_NO_UPDATE_NOTIFIER": "1",
            "DO_NOT_TRACK": "1",
        }
        self.env |= self.connect(server, folder)

    def connect(self, server, folder):
        # That host is at port 80, which not everybody may listen at: a socket leads there.
        socket = str(folder / "socket")
        self.forwarder = Forwarder(socket, server.port)
        run(CLIENTS / "python/bin/gh", "config", "set", "http_unix_socket", socket, env=self.env)
        return {"GH_HOST": "github.localhost", "GH_TOKEN": TOKEN}

    def close(self):
        if self.forwarder:
            self.forwarder.__exit__()

    def gh(self, command, *arguments):
        # Outside of a repository, so that there are no tags of git.
        return run(CLIENTS / "python/bin/gh", "release", command, "-R", self.repository, *arguments, env=self.env,
                   cwd=self.case.work)

    def read(self, *arguments):
        return json.loads(self.gh(*arguments))

    def draft(self):
        case = self.case
        self.gh("create", case.tag, "--draft", "--title", case.title, "--notes", case.notes, case.paths()[0])
        found = self.read("view", case.tag, "--json", "isDraft,assets")
        expect((found["isDraft"], [asset["name"] for asset in found["assets"]]), (True, case.names[:1]))

    def upload(self):
        self.gh("upload", self.case.tag, *self.case.paths()[1:])

    def publish(self):
        self.gh("edit", self.case.tag, "--draft=false")

    def list(self):
        found = self.read("list", "--json", "tagName,name,isDraft,isLatest")
        case = self.case
        expect(found, [{"isDraft": False, "isLatest": True, "name": case.title, "tagName": case.tag}])

    def view(self):
        case = self.case
        found = self.read("view", case.tag, "--json", "name,body,tagName,assets,url,publishedAt")
        expect((found["name"], found["body"].strip(), found["tagName"]), (case.title, case.notes.strip(), case.tag))
        expect(sorted(asset["name"] for asset in found["assets"]), sorted(case.names))
        expect({asset["name"]: asset["size"] for asset in found["assets"]}["large.bin"], 9 * 1024 * 1024)

    def tag(self):
        folder = self.case.fresh("tag")
        self.gh("download", self.case.tag, "--dir", folder)
        self.case.same(folder)

    def latest(self):
        folder = self.case.fresh("latest")
        self.gh("download", "--dir", folder, "--pattern", "*")
        self.case.same(folder)

    def replace(self):
        case = self.case
        self.gh("upload", case.tag, case.other, "--clobber")
        folder = case.fresh("replaced")
        self.gh("download", case.tag, "--dir", folder, "--pattern", case.replaced)
        expect((folder / case.replaced).read_bytes(), case.other.read_bytes())

    def edit(self):
        self.gh("edit", self.case.tag, "--notes", self.case.edited)
        expect(self.read("view", "--json", "body")["body"], self.case.edited)

    def drop(self):
        self.gh("delete-asset", self.case.tag, self.case.dropped, "--yes")
        found = self.read("view", self.case.tag, "--json", "assets")["assets"]
        expect(sorted(asset["name"] for asset in found), sorted(set(self.case.names) - {self.case.dropped}))

    def delete(self):
        self.gh("delete", self.case.tag, "--yes", "--cleanup-tag")
        expect(self.read("list", "--json", "tagName"), [])


class GhEnterprise(Gh):
    """The same with GitHub Enterprise Server's addresses: https with a certificate, and below `/api/v3`."""

    name, needs = "gh-enterprise", {"tls": True}

    def connect(self, server, folder):
        # As Go's programs are told of an authority on Linux.
        return {
            "GH_HOST": f"localhost:{server.port}", "GH_ENTERPRISE_TOKEN": TOKEN, "SSL_CERT_FILE": server.certificate,
        }


class PyGithub:
    name, needs = "PyGithub", {}

    def __init__(self, server, case):
        self.case = case
        # It announces chunks for a file of no bytes and then sends none, which no server sees the end of.
        case.names.remove("empty.bin")
        case.dropped = "checksums.txt"
        self.github = github.Github(base_url=f"{server.url}/api/v3", auth=github.Auth.Token(TOKEN), retry=None)
        self.repository = self.github.get_repo(f"acme/{self.name}")

    def close(self):
        self.github.close()

    def draft(self):
        case = self.case
        self.release = self.repository.create_git_release(case.tag, case.title, case.notes, draft=True)
        expect((self.release.draft, self.release.tag_name), (True, case.tag))

    def upload(self):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assets = list(pool.map(self.release.upload_asset, self.case.paths()))
        expect({asset.state for asset in assets}, {"uploaded"})

    def publish(self):
        case = self.case
        self.release = self.release.update_release(case.title, case.notes, draft=False)
        expect(self.release.draft, False)

    def list(self):
        found = self.repository.get_releases()
        expect((found.totalCount, [release.tag_name for release in found]), (1, [self.case.tag]))

    def view(self):
        found, case = self.repository.get_release(self.case.tag), self.case
        expect((found.title, found.body, found.id), (case.title, case.notes, self.release.id))
        expect(sorted(asset.name for asset in found.get_assets()), sorted(case.names))

    def fetch(self, release, name):
        folder = self.case.fresh(name)
        for asset in release.get_assets():
            asset.download_asset(str(folder / asset.name))
        return folder

    def tag(self):
        self.case.same(self.fetch(self.repository.get_release(self.case.tag), "tag"))

    def latest(self):
        self.case.same(self.fetch(self.repository.get_latest_release(), "latest"))

    def asset(self, name):
        return next(asset for asset in self.release.get_assets() if asset.name == name)

    def replace(self):
        case = self.case
        self.asset(case.replaced).delete_asset()
        self.release.upload_asset(str(case.other), label="Another")
        asset = self.asset(case.replaced)
        expect(asset.label, "Another")
        asset.download_asset(str(case.work / "replaced"))
        expect((case.work / "replaced").read_bytes(), case.other.read_bytes())

    def edit(self):
        self.release.update_release(self.case.title, self.case.edited)
        expect(self.repository.get_release(self.release.id).body, self.case.edited)

    def drop(self):
        self.asset(self.case.dropped).delete_asset()
        expect(len(list(self.release.get_assets())), len(self.case.names) - 1)

    def delete(self):
        self.release.delete_release()
        expect(list(self.repository.get_releases()), [])


class Octokit:
    """octokit.mjs, a program for each operation."""

    name, needs = "octokit", {}
    program = "octokit"

    def __init__(self, server, case):
        self.case = case
        self.env = {"API": f"{server.url}/api/v3", "TOKEN": TOKEN, "REPOSITORY": f"acme/{self.name}"}

    def close(self):
        pass

    def node(self, operation, folder=None):
        case = self.case
        asked = {
            "tag": case.tag, "title": case.title, "notes": case.notes, "edited": case.edited, "paths": case.paths(),
            "other": str(case.other), "folder": str(folder), "dropped": case.dropped,
        }
        # Modules are looked up from where a program is.
        program = CLIENTS / f"{self.program}.mjs"
        shutil.copyfile(HERE / program.name, program)
        run("node", program, operation, env=self.env, text=json.dumps(asked))

    def draft(self):
        self.node("draft")

    def upload(self):
        self.node("upload")

    def publish(self):
        self.node("publish")

    def list(self):
        self.node("list")

    def view(self):
        self.node("view")

    def tag(self):
        folder = self.case.fresh("tag")
        self.node("tag", folder)
        self.case.same(folder)

    def latest(self):
        folder = self.case.fresh("latest")
        self.node("latest", folder)
        self.case.same(folder)

    def replace(self):
        folder = self.case.fresh("replaced")
        self.node("replace", folder)
        expect((folder / self.case.replaced).read_bytes(), self.case.other.read_bytes())

    def edit(self):
        self.node("edit")

    def drop(self):
        self.node("drop")

    def delete(self):
        self.node("delete")


class Softprops(Octokit):
    """The calls of the action softprops/action-gh-release, in its order."""

    name, program = "softprops", "softprops"
    tag = latest = "the action does not download"
    drop = "the action deletes an asset only where it replaces it"
    delete = "the action deletes no releases, only drafts that it made twice"


class Curl:
    """What install scripts and hand-written pipelines do."""

    name, needs = "curl", {}

    def __init__(self, server, case):
        self.case = case
        self.web = f"{server.url}/acme/curl"
        self.api = f"{server.url}/api/v3/repos/acme/curl/releases"

    def close(self):
        pass

    def curl(self, *arguments):
        return run("curl", "--silent", "--show-error", "--fail-with-body", *arguments)

    def send(self, *arguments):
        return self.curl("-H", f"Authorization: Bearer {TOKEN}", *arguments)

    def shell(self, script):
        return run("bash", "-euo", "pipefail", "-c", script, cwd=self.case.work).strip()

    def draft(self):
        case = self.case
        fields = {"tag_name": case.tag, "name": case.title, "body": case.notes, "draft": True}
        self.release = json.loads(self.send(self.api, "-d", json.dumps(fields)))
        expect(self.release["draft"], True)

    def put(self, path):
        url = self.release["upload_url"].replace("{?name,label}", f"?name={pathlib.Path(path).name}")
        return json.loads(self.send(url, "-H", "Content-Type: application/octet-stream", "--data-binary", f"@{path}"))

    def upload(self):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for asset in pool.map(self.put, self.case.paths()):
                expect(asset["state"], "uploaded")

    def publish(self):
        found = json.loads(self.send("-X", "PATCH", self.release["url"], "-d", '{"draft": false}'))
        expect(found["draft"], False)

    def list(self):
        found = self.shell(f"curl -fsSL {self.api} | grep browser_download_url | cut -d '\"' -f 4")
        expect(sorted(url.rsplit("/", 1)[1] for url in found.split()), sorted(self.case.names))

    def view(self):
        found = self.shell(f"curl -fsSL {self.api}/latest | grep '\"tag_name\":' | sed -E 's/.*\"([^\"]+)\".*/\\1/'")
        expect(found, self.case.tag)
        found = self.shell(f"curl -fsSL -H 'Accept: application/json' {self.web}/releases/latest")
        expect(re.sub(r'.*"tag_name":"([^"]*)".*', r"\1", found), self.case.tag)

    def tag(self):
        folder = self.case.fresh("tag")
        run("curl", "-fsSL", "--remote-name-all", *self.urls(), cwd=folder)
        self.case.same(folder)
        sums = self.urls()[0].rsplit("/", 1)[0] + "/SHA256SUMS"
        self.shell(f"cd tag && curl -fsSL '{sums}' | sha256sum --check --strict --quiet")
        # As a script that resumes does.
        large = self.urls()[-1]
        half = folder / "large.bin"
        half.write_bytes((self.case.folder / "large.bin").read_bytes()[:5_000_000])
        run("curl", "-fsSL", "-C", "-", "-o", half, large)
        self.case.same(folder)

    def urls(self):
        release = json.loads(self.curl(f"{self.api}/latest"))
        return sorted((asset["browser_download_url"] for asset in release["assets"]), key=lambda url: url.endswith("large.bin"))

    def latest(self):
        location = self.shell(f"curl -sI {self.web}/releases/latest | grep -i '^location:' | tr -d '\\r'")
        tag = location.rsplit("/tag/", 1)[1]
        effective = self.shell(f"curl -fsSL -o /dev/null -w '%{{url_effective}}' {self.web}/releases/latest")
        expect(effective.rsplit("/tag/", 1)[1], tag)
        folder = self.case.fresh("latest")
        for name in self.case.names:
            run("curl", "-fsSL", "-o", folder / name, f"{self.web}/releases/latest/download/{name}")
        self.case.same(folder)

    def asset(self, name):
        release = json.loads(self.curl(self.release["url"]))
        return next(asset for asset in release["assets"] if asset["name"] == name)

    def replace(self):
        case = self.case
        self.send("-X", "DELETE", self.asset(case.replaced)["url"])
        self.put(case.other)
        url = self.asset(case.replaced)["url"]
        found = self.curl("-L", "-H", "Accept: application/octet-stream", url)
        expect(found, case.other.read_text())

    def edit(self):
        self.send("-X", "PATCH", self.release["url"], "-d", json.dumps({"body": self.case.edited}))
        expect(json.loads(self.curl(f"{self.api}/latest"))["body"], self.case.edited)

    def drop(self):
        self.send("-X", "DELETE", self.asset(self.case.dropped)["url"])
        expect(len(json.loads(self.curl(self.release["assets_url"]))), len(self.case.names) - 1)

    def delete(self):
        self.send("-X", "DELETE", self.release["url"])
        expect(json.loads(self.send(self.api)), [])


class Specify:
    """The Spec Kit CLI, with a GitHub Enterprise Server in its `auth.json`: installs an extension from a release.

    It runs against a private repository, so that only what `auth.json` says lets it in.
    """

    name, needs = "specify", {"AUTH__PRIVATE_REPOSITORIES": '["acme/specify"]'}
    draft = upload = publish = list = replace = edit = drop = delete = "the CLI only installs: an extension by a URL"

    def __init__(self, server, case):
        self.case, self.server = case, server
        home = case.fresh("home")
        (home / ".specify").mkdir()
        entry = {"hosts": ["127.0.0.1"], "provider": "github", "auth": "bearer", "token": TOKEN}
        auth = home / ".specify" / "auth.json"
        auth.write_text(json.dumps({"providers": [entry]}))
        auth.chmod(0o600)
        self.env = {"HOME": str(home), "NO_COLOR": "1", "COLUMNS": "200"}
        self.project = case.fresh("project")
        (self.project / ".specify").mkdir()
        archive = case.work / "greeter.zip"
        manifest = {
            "schema_version": "1.0",
            "extension": {
                "id": "greeter", "name": "Greeter", "version": "1.0.0", "description": "Says hello",
                "author": "acme", "license": "MIT",
            },
            "requires": {"speckit_version": ">=0.1.0"},
            "provides": {"commands": [{
                "name": "speckit.greeter.hello", "file": "commands/hello.md", "description": "Says hello",
            }]},
        }
        with zipfile.ZipFile(archive, "w") as file:
            # JSON is YAML.
            file.writestr("extension.yml", json.dumps(manifest))
            file.writestr("commands/hello.md", "---\ndescription: Says hello\n---\n\nSay hello.\n")
        with github.Github(base_url=f"{server.url}/api/v3", auth=github.Auth.Token(TOKEN), retry=None) as api:
            release = api.get_repo("acme/specify", lazy=True).create_git_release("v1.0.0", "One", "")
            release.upload_asset(str(archive))

    def close(self):
        pass

    def add(self, path):
        specify = CLIENTS / "python/bin/specify"
        url = f"{self.server.url}/acme/specify/releases/{path}"
        run(specify, "extension", "add", "greeter", "--from", url, "--force", env=self.env, cwd=self.project, text="y\n")
        found = self.project / ".specify/extensions/greeter/commands/hello.md"
        expect(found.read_text().rstrip().endswith("Say hello."), True)
        shutil.rmtree(self.project / ".specify/extensions/greeter")

    def view(self):
        # It looks the release up by its tag, and then fetches the asset by its id.
        self.add("download/v1.0.0/greeter.zip")
        asked = pathlib.Path(self.server.log).read_text()
        for route in ["/releases/tags/{*tag}", "/releases/assets/{id}"]:
            expect((route, route in asked), (route, True))

    def tag(self):
        self.add("download/v1.0.0/greeter.zip")

    def latest(self):
        self.add("latest/download/greeter.zip")


ALL = [Gh, GhEnterprise, PyGithub, Octokit, Softprops, Curl, Specify]
