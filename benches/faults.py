"""Runs the tests that attack the server, and makes a table of what they found.

Each counts what it did and writes rows down (`tests/evidence/mod.rs`). What fails, or cannot run, is a row too.
"""

import collections
import dataclasses
import datetime
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import harness
from harness import ROOT, say


@dataclasses.dataclass
class Attack:
    what: str
    """For what writes no rows of its own: then it is one, of the tests that passed."""
    program: str
    """The test program, `cargo test --test PROGRAM`; `src` is the unit tests."""
    filter: tuple[str, ...] = ()
    """The tests of it that attack; all of them unless there is something here."""
    on: str = "directory"
    command: tuple[str, ...] = ()
    """Instead of a test program; it adds its rows to the file that `RELEASE_SERVER_EVIDENCE` names."""


# All there are: a new one is a line here.
ATTACKS = [
    Attack("many clients and processes after one name, sweeps between them", "races"),
    Attack("servers killed, stopped and cut off", "crash"),
    Attack("two replicas over a bucket: races, lost replies, kills, outages", "bucket_races", on="MinIO"),
    Attack("releases raced for, edited and killed", "release_races", on="directory, MinIO"),
    Attack("every request of a flow delayed, lost, repeated or refused", "s3", on="S3, simulated"),
    Attack("killed at every system call; the power gone at any moment", "disk"),
    Attack("clients, files and clocks that mean harm", "hostile", on="the network"),
    Attack("what the API promises, by HTTP", "it"),
]


TOO_LONG_S = 1200
"""What no test program takes for a round."""


def run_in_time(command, environment, seconds):
    """With its output; ended with all that it has started if it takes too long."""
    started = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output = started.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        output = started.communicate()
        say(f"faults: {command}: not done in {seconds} s")
    return subprocess.CompletedProcess(command, started.returncode, *output)


def is_there(attack):
    if attack.command or attack.program == "src":
        return True
    return any((ROOT / "tests" / path).exists() for path in (f"{attack.program}.rs", f"{attack.program}/main.rs"))


def outcomes(attack, rounds, minio):
    """Its rows: what it wrote down, what was skipped, and whether it failed."""
    if not is_there(attack):
        skipped = f"there is no test program `{attack.program}`"
        return [{**row(attack.what, attack.on, 0, ""), "skipped": skipped, "program": attack.program}]
    command = list(attack.command)
    if not command:
        which = ["--lib"] if attack.program == "src" else ["--test", attack.program]
        command = ["cargo", "test", "--locked", "--no-fail-fast", *which, "--", *attack.filter]
    with tempfile.TemporaryDirectory() as folder:
        evidence = pathlib.Path(folder) / "evidence"
        environment = {**os.environ, "RELEASE_SERVER_EVIDENCE": str(evidence), "RELEASE_SERVER_TEST_ROUNDS": str(rounds)}
        if minio:
            environment["RELEASE_SERVER_TEST_MINIO"] = str(minio)
        begun = time.monotonic()
        ran = run_in_time(command, environment, TOO_LONG_S * rounds)
        lines = evidence.read_text().splitlines() if evidence.exists() else []
    passed, failed, ignored = (
        sum(map(int, re.findall(rf"^test result: .* (\d+) {word}", ran.stdout, re.MULTILINE)))
        for word in ("passed", "failed", "ignored")
    )
    said = ran.stdout + ran.stderr
    rows = sorted(merged(map(json.loads, lines)), key=lambda one: (one["attack"], one["on"]))
    if not rows and ran.returncode == 0 and passed:
        rows = [row(attack.what, attack.on, passed, "tests")]
    for skipped in sorted(set(re.findall(r"SKIPPED: (.*)", said))):
        rows.append({**row(attack.what, attack.on, 0, ""), "skipped": skipped})
    if ignored:
        rows.append({**row(attack.what, attack.on, 0, ""), "skipped": f"{ignored} tests are ignored"})
    if ran.returncode != 0:
        names = re.findall(r"^test (\S+) \.\.\. FAILED", ran.stdout, re.MULTILINE)
        why = ", ".join(f"`{name.rpartition('::')[2]}`" for name in names) or f"exit code {ran.returncode}"
        rows.append({**row(attack.what, attack.on, 0, ""), "failed": why})
        say(said[-20_000:])
    elif not rows:
        rows.append({**row(attack.what, attack.on, 0, ""), "failed": "no test ran"})
    say(f"faults: {attack.program}: {passed} passed, {failed} failed, in {time.monotonic() - begun:.0f} s")
    for one in rows:
        one["program"] = attack.program
    return rows


def row(attack, on, cases, of):
    return {"attack": attack, "on": on, "cases": cases, "of": of, "lost": 0, "wrong": 0, "hung": 0}


def merged(rows):
    """What has the same name and place is one row."""
    found = {}
    for one in rows:
        same = found.setdefault((one["attack"], one["on"], one["of"]), row(one["attack"], one["on"], 0, one["of"]))
        for field in ("cases", "lost", "wrong", "hung"):
            same[field] += one[field]
    return list(found.values())


def unlisted():
    """Test programs that write rows down and are not in the list: nobody would see what they found."""
    tests = ROOT / "tests"
    writes = [path for path in tests.rglob("*.rs") if re.search(r"\bEvidence \{", path.read_text())]
    programs = {path.relative_to(tests).parts[0].removesuffix(".rs") for path in writes} - {"evidence", "process"}
    return sorted(programs - {attack.program for attack in ATTACKS})


def run(arguments, before):
    """`before`: what was found before; it stays where only some of the attacks are run."""
    if missing := unlisted():
        sys.exit(f"error: {', '.join(missing)} in tests/ is not in the list of attacks, benches/faults.py")
    if arguments.minio is None:
        say("faults: there is no MinIO, so what needs one is SKIPPED; `.ci/run minio` builds it, `--minio PATH` names another")
    if unknown := set(arguments.attacks or ()) - {attack.program for attack in ATTACKS}:
        sys.exit(f"error: `{unknown.pop()}` is not in the list of attacks, benches/faults.py")
    chosen = [attack for attack in ATTACKS if not arguments.attacks or attack.program in arguments.attacks]
    tests = [attack.program for attack in chosen if is_there(attack) and not attack.command and attack.program != "src"]
    programs = [argument for program in tests for argument in ("--test", program)]
    subprocess.run(["cargo", "test", "--locked", "--quiet", "--no-run", *programs], cwd=ROOT, check=True)
    kept = before.tables["faults"] if before else []
    rows = []
    for attack in ATTACKS:
        if attack in chosen:
            rows += outcomes(attack, arguments.attack_rounds, arguments.minio)
        else:
            rows += [row for row in kept if row["program"] == attack.program]
    version = harness.first_line("cargo", "pkgid").rpartition("@")[2].rpartition("#")[2]
    versions = [f"release-server {version}", harness.version_of("rustc")]
    if arguments.minio:
        versions.append(harness.version_of("MinIO"))
    measured = {"date": str(datetime.date.today()), "machine": harness.machine(), "versions": versions, "quick": False}
    about = f"`RELEASE_SERVER_TEST_ROUNDS={arguments.attack_rounds}`; more rounds, more cases."
    return harness.Results("faults", "", about, measured, tables={"faults": rows})


def clean(results):
    """Whether nothing failed, and nothing was lost, wrong or hung."""
    rows = results.tables["faults"]
    return not any(one.get("failed") or one["lost"] or one["wrong"] or one["hung"] for one in rows)


def table(results):
    """Of Markdown, with the sums in its last line."""
    rows = results.tables["faults"]
    lines = ["| attack | on | cases | lost | wrong | hung |", "|---|---|--:|--:|--:|--:|"]
    sums = collections.Counter()
    for one in rows:
        if failed := one.get("failed"):
            cells = [f"**FAILED**: {failed}", "", "", ""]
        elif skipped := one.get("skipped"):
            cells = [f"**SKIPPED**: {skipped}", "", "", ""]
        else:
            cells = [f"{one['cases']:,} {one['of']}"]
            cells += [f"**{count:,}**" if (count := one[field]) else "0" for field in ("lost", "wrong", "hung")]
            sums.update({field: one[field] for field in ("cases", "lost", "wrong", "hung")})
        lines.append(f"| {one['attack']} | {one['on']} | {' | '.join(cells)} |")
    failed, skipped = (sum(word in one for one in rows) for word in ("failed", "skipped"))
    tail = ", ".join(f"{count} {word}" for count, word in ((failed, "FAILED"), (skipped, "SKIPPED")) if count)
    total = " | ".join(f"**{sums[field]:,}**" for field in ("cases", "lost", "wrong", "hung"))
    lines.append(f"| **all{f', {tail}' if tail else ''}** | | {total} |")
    return "\n".join(lines)
