#!/usr/bin/env python3
"""Builds the fuzz targets and runs each for a while.

    fuzz/run.py [--seconds N] [--minimize] [TARGET …]

Each target begins with the inputs that are kept in `fuzz/corpus` and adds what it finds to `fuzz/target/found`; with
`--minimize` the kept ones become the seeds and the hundred smallest of those that both together reach everything with. A finding is written to `fuzz/artifacts` and ends the run with an error. A row for the table of faults goes to the
file that `RELEASE_SERVER_EVIDENCE` names. Needs Python 3.9, `cargo-fuzz` and a C++ compiler, but no nightly Rust: there is
no unsafe code of ours that a sanitizer could watch."""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
# Optimized, with the assertions that `Cargo.toml` asks for; and with no sanitizer, which stable Rust has none of.
BUILD = ["--sanitizer", "none", "--release"]
LARGEST, MOST = 2048, 100


def targets():
    return sorted(path.stem for path in (HERE / "fuzz_targets").glob("*.rs"))


def program(target):
    host = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    host = re.search(r"^host: (.*)$", host, re.M).group(1)
    folder = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target"))
    return folder / host / "release" / target


def fuzz(target, seconds):
    """What a run came to: executions, edges covered, whether it found something."""
    kept, found = HERE / "corpus" / target, HERE / "target" / "found" / target
    artifacts = HERE / "artifacts" / target
    for folder in (kept, found, artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    command = [program(target), f"-max_total_time={seconds}", "-timeout=25", "-rss_limit_mb=2048", "-max_len=8192"]
    command += ["-print_final_stats=1", f"-artifact_prefix={artifacts}/", found, kept]
    started = time.monotonic()
    run = subprocess.run(command, cwd=HERE, capture_output=True, timeout=seconds + 600)
    said = run.stderr.decode(errors="replace")
    executions = [int(number) for number in re.findall(r"stat::number_of_executed_units:\s*(\d+)", said)]
    covered = [int(number) for number in re.findall(r"\bcov: (\d+)", said)]
    result = {
        "target": target,
        "seconds": round(time.monotonic() - started, 1),
        "executions": executions[-1] if executions else 0,
        "edges": covered[-1] if covered else 0,
        "kept": sum(1 for _ in kept.iterdir()),
        "failed": run.returncode != 0,
    }
    if result["failed"]:
        print(said[-6000:], file=sys.stderr)
    return result


def minimize(target):
    kept, found, merged = (HERE / part / target for part in ("corpus", "target/found", "target/merged"))
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir(parents=True)
    command = [program(target), "-merge=1", "-timeout=25", "-max_len=8192", merged, kept, found]
    subprocess.run(command, cwd=HERE, check=True, capture_output=True)
    seeds = [path for path in kept.iterdir() if path.name.startswith("seed-")]
    for path in kept.iterdir():
        if path not in seeds:
            path.unlink()
    known = {path.read_bytes() for path in seeds}
    new = sorted((path.stat().st_size, path) for path in merged.iterdir() if path.read_bytes() not in known)
    for size, path in new[:MOST]:
        if size <= LARGEST:
            shutil.copy(path, kept / path.name[:16])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="how long each target runs")
    parser.add_argument("--minimize", action="store_true", help="keep what was found")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    asked = parser.parse_args()
    unknown = set(asked.targets) - set(targets())
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}; there are {', '.join(targets())}")
    subprocess.run(["cargo", "fuzz", "build", *BUILD], cwd=HERE.parent, check=True)

    results = []
    for target in asked.targets or targets():
        result = fuzz(target, asked.seconds)
        results.append(result)
        print("{target:14} {executions:10,} executions {edges:7,} edges {kept:5} inputs kept {seconds:7} s  {state}".format(
            state="FAILED" if result["failed"] else "ok", **result), flush=True)
        if asked.minimize and not result["failed"]:
            minimize(target)
    executions, failed = (sum(result[key] for result in results) for key in ("executions", "failed"))
    print(f"{len(results)} targets, {executions:,} executions, {failed} failed")
    evidence = os.environ.get("RELEASE_SERVER_EVIDENCE")
    if evidence:
        row = {"attack": f"inputs made up by a fuzzer, for {len(results)} parsers", "on": "memory", "cases": executions,
               "of": "inputs", "lost": 0, "wrong": failed, "hung": 0}
        with open(evidence, "a", encoding="utf-8") as table:
            table.write(json.dumps(row) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
