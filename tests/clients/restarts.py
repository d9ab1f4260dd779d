"""`gh release create` and `gh release download` while the server is killed and started again: repeated, both end right."""

import random
import subprocess
import tempfile
import threading
import time

import clients
from servers import Server


class Trouble(threading.Thread):
    """Kills the server after so many seconds, starts it again, and does so some more times at random."""

    def __init__(self, server, chance, after):
        super().__init__(daemon=True)
        self.server, self.stopped = server, threading.Event()
        self.waits = [after] + [chance.uniform(0, 0.5) for _ in range(chance.randint(0, 2))]
        self.pause = chance.uniform(0, 0.1)
        self.kills, self.failure = 0, None

    def run(self):
        try:
            for wait in self.waits:
                if self.stopped.wait(wait):
                    return
                self.server.kill()
                self.kills += 1
                time.sleep(self.pause)
                self.server.start()
        except Exception as failure:
            self.failure = failure

    def stop(self):
        self.stopped.set()
        self.join()
        if self.failure:
            raise self.failure


def repeated(server, chance, after, command, over):
    """Runs a command until it succeeds, or `over` says that there is nothing left to do: how often, and the kills."""
    trouble = Trouble(server, chance, after)
    trouble.start()
    said = []
    try:
        for attempt in range(1, 30):
            if over():
                return attempt, trouble
            try:
                command()
                return attempt, trouble
            except (AssertionError, subprocess.TimeoutExpired) as failure:
                said.append(str(failure))
    finally:
        trouble.stop()
    raise AssertionError("it never succeeded:\n" + "\n".join(said[-3:]))


def took(command):
    begun = time.monotonic()
    command()
    return time.monotonic() - begun


def survives(program, store, times):
    """Whether it ends right, `times` times: the first kill of each is a bit later than that of the one before."""
    kills, attempts, lengths = 0, 0, {}
    with tempfile.TemporaryDirectory() as folder, Server(program, store) as server:
        case = clients.Case(folder)
        gh = clients.Gh(server, case)
        gh.repository = "acme/restarts"
        try:
            for number in range(times + 1):
                chance, moment = random.Random(number), (number - 0.5) / times
                tag = f"v{number}"

                def create():
                    gh.gh("create", tag, *case.paths(), "--notes", case.notes)

                def published():
                    # The command may be told of an error although the release is out: as with GitHub, the tag is taken
                    # then.
                    try:
                        return any(row["tagName"] == tag and not row["isDraft"] for row in releases())
                    except AssertionError:
                        return False

                def releases():
                    return gh.read("list", "--json", "tagName,isDraft,isLatest", "--limit", "200")

                def download():
                    folder = case.fresh("download")
                    gh.gh("download", tag, "--dir", folder)

                if number == 0:  # undisturbed
                    lengths = {"create": took(create), "download": took(download)}
                    continue
                tried, trouble = repeated(server, chance, moment * lengths["create"], create, published)
                kills, attempts = kills + trouble.kills, attempts + tried

                tried, trouble = repeated(server, chance, moment * lengths["download"], download, lambda: False)
                kills, attempts = kills + trouble.kills, attempts + tried
                case.same(case.work / "download")
                public = [row for row in releases() if not row["isDraft"]]
                clients.expect([row["tagName"] for row in public if row["tagName"] == tag], [tag])
                clients.expect([row["tagName"] for row in public if row["isLatest"]], [tag])
            drafts = [row for row in releases() if row["isDraft"]]
        finally:
            gh.close()
    print(
        f"restarts on {store.name}: {times} releases created and downloaded with gh, the server killed {kills} times, "
        f"{attempts} commands for {2 * times}; each release whole and once, {len(drafts)} drafts left by commands that broke off"
    )
    return True
