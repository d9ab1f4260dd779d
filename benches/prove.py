#!/usr/bin/env python3
"""Measures the speed, runs the attacks, and prints a table of each.

Parts: `directory`, `bucket`, `releases` and `cost`, together `speed`, and `faults`. Each saves what it found below
`target/prove`, and the tables are made of that: with `--saved` nothing is run, and parts that were run at another time
stay as they are. `--write` puts the tables into README.md and docs/cost.md, and draws docs/speed.svg.

It ends with 1 if an attack failed, or something was lost, wrong or hung. Targets of speed that are missed are marked,
and no error.
"""

import argparse
import sys

import bucket
import cost
import directory
import faults
import harness
import picture
import releases

SPEED = [directory.PART, bucket.PART, releases.PART, cost.PART]
SPEED_NAMES = [part.name for part in SPEED]
SAVED = harness.TARGET / "prove"

# What the README shows; the cost has a page of its own.
HEADINGS = {
    "directory": "On a directory, beside nginx",
    "bucket": "On a bucket, beside MinIO",
    "releases": "Releases on a bucket",
}


def saved(part):
    path = SAVED / f"{part}.json"
    return harness.Results.load(path) if path.exists() else None


def speed(found):
    """The section of the README."""
    shown = [(part, found[part.name]) for part in SPEED if part.name in HEADINGS and part.name in found]
    # Said once, where all were measured on one day and machine.
    once = len({(results.measured["date"], results.measured["machine"]) for _, results in shown}) == 1
    blocks = ["![How fast it is, beside its peers](docs/speed.svg)"]
    for part, results in shown:
        heading = f"**{HEADINGS[part.name]}.** {sentence(results)}".rstrip()
        blocks += [heading, part.table(results), results.footnote(with_machine=not once)]
    if once:
        measured = shown[0][1].measured
        versions = list(dict.fromkeys(version for _, results in shown for version in results.measured["versions"]))
        blocks.append(f"All of it {measured['date']} on {measured['machine']}; {', '.join(versions)}.")
    return "\n\n".join(blocks)


def sentence(results):
    judged = [kept for row in results.rows for kept in (row.kept, row.p99_kept) if kept is not None]
    return f"{sum(judged)} of {len(judged)} targets are reached:" if judged else ""


def unbreakable(results):
    return f"{faults.table(results)}\n\n{results.footnote()}"


def write(path, marker, content):
    """Replaces what is between two markers."""
    begin, end = f"<!-- {marker}: written by `just prove --write` -->\n", f"<!-- end of {marker} -->"
    text = path.read_text()
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        sys.exit(f"error: {path} has no place for {marker}: {begin.strip()} … {end}")
    path.write_text(f"{before}{begin}\n{content}\n\n{end}{after}")


def main():
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of: speed, {', '.join(SPEED_NAMES)}, faults [default: all]")
    parser.add_argument("--write", action="store_true", help="put the tables and the picture into the documentation")
    parser.add_argument("--saved", action="store_true", help="run nothing, take what was found before")
    parser.add_argument("--rounds", dest="attack_rounds", type=int, default=1, help="rounds of the attacks [default: 1]")
    parser.add_argument("--attack", dest="attacks", action="append", metavar="PROGRAM", help="only this test program; may be repeated")
    harness.options(parser)
    arguments = parser.parse_args()
    chosen = arguments.parts or ["speed", "faults"]
    if unknown := set(chosen) - {"speed", "faults", *SPEED_NAMES}:
        parser.error(f"`{unknown.pop()}` is not one of: speed, {', '.join(SPEED_NAMES)}, faults")

    everything = {part.name: saved(part.name) for part in SPEED} | {"faults": saved("faults")}
    if not arguments.saved:
        for part in SPEED:
            if part.name in chosen or "speed" in chosen:
                everything[part.name] = part.run(arguments)
                everything[part.name].save(SAVED / f"{part.name}.json")
        if "faults" in chosen:
            everything["faults"] = faults.run(arguments, everything["faults"])
            everything["faults"].save(SAVED / "faults.json")
    found = {name: results for name, results in everything.items() if results}

    asked = {*chosen, *(SPEED_NAMES if "speed" in chosen else ())}
    shown = {name: results for name, results in found.items() if name in asked}
    if shown.keys() & set(SPEED_NAMES):
        print(f"\n# Speed\n\n{speed(shown)}")
    if results := shown.get("cost"):
        print(f"\n# Cost in a bucket\n\n{cost.table(results)}\n\n{results.footnote()}")
    if results := shown.get("faults"):
        print(f"\n# Unbreakable\n\n{unbreakable(results)}")
    if arguments.write:
        if missing := everything.keys() - found.keys():
            sys.exit(f"error: nothing is written, for these parts were never run: {', '.join(sorted(missing))}")
        readme = harness.ROOT / "README.md"
        write(readme, "speed", speed(found))
        write(readme, "faults", unbreakable(found["faults"]))
        write(harness.ROOT / "docs/cost.md", "cost", f"{cost.table(found['cost'])}\n\n{found['cost'].footnote()}")
        drawn = picture.draw([(HEADINGS[name], found[name]) for name in ("directory", "bucket")])
        (harness.ROOT / "docs/speed.svg").write_text(drawn)
        harness.say("written: README.md, docs/cost.md, docs/speed.svg")
    if "faults" in found and not faults.clean(found["faults"]):
        sys.exit("FAILED: an attack failed, or something was lost, wrong or hung; see the table")


if __name__ == "__main__":
    main()
