#!/usr/bin/env python3
"""Checks the protocol of src/storage/changes.rs by trying every order of its steps.

A listing that was made while the record of changes was quiet is taken to hold as long as the record is the same. This
program plays writers, replicas that read, crashes, replies that get lost and requests that arrive long after they were
sent, one step at a time and in every order (breadth first, so that a counterexample is as short as can be). What must
hold in all of them:

    What was acknowledged, or was in any answer, is in every answer to a later request.

Then each rule of the protocol is left out in turn, and the answer that goes back in time is shown.

    $ tests/model/changes.py            # the protocol, and what each of its rules is for
    $ tests/model/changes.py --show     # and the counterexamples, step by step

Two packages stand for all: each has a version that only grows. Needs nothing but Python.
"""

import sys
from collections import namedtuple

# The record: its ETag, and the tokens of who is writing. `None`: there is none.
Record = namedtuple("Record", "etag open")
# The token that a new record has: nobody takes it back.
NOBODY = ("nobody", 0)
# `floor`: the versions that every answer to a request from now on must have. `sent`: requests that are still on their way.
World = namedtuple("World", "record versions floor processes sent faults")
Writer = namedtuple("Writer", "at package left token etag unannounced")
Reader = namedtuple("Reader", "at left due seen listed proof")

ENDED = "ended"

RULES = {
    "announce": "a writer is in the record before it writes",
    "before": "a reader looks at the record before it lists, not after",
    "quiet": "a listing made while somebody writes proves nothing",
    "doubt": "a writer whose request may still arrive stays in the record",
    "clear": "a writer that is gone is taken out only when no request of it can arrive any more",
    "fresh": "no version of the record has the ETag of an earlier one",
    "token": "whoever writes again does so under a new token",
    "swap": "the record is changed by compare-and-swap",
    "settle": "a new record has a token of nobody, until nobody writes any more who had not found it",
}


class Model:
    def __init__(self, writers, readers, faults, record, without=None):
        self.without = without
        processes = [Writer("find", package, writes, None, None, False) for package, writes in writers]
        processes += [Reader("look", rounds, None, None, None, None) for rounds in readers]
        self.start = World(record, (0, 0), (0, 0), tuple(processes), (), faults)

    def has(self, rule):
        return self.without != rule

    def written(self, world, open):
        """The record, written anew."""
        etag = (world.record.etag if world.record else 0) + 1 if self.has("fresh") else open
        return world._replace(record=Record(etag, open))

    # What requests do when they arrive, and what is answered.

    def arrive(self, world, request):
        kind, *what = request
        record = world.record
        if kind == "swap":
            etag, put, take = what
            if record is None or (self.has("swap") and record.etag != etag):
                return world, "changed"
            base = record.open if self.has("swap") else etag
            return self.written(world, base - take | put), "ok"
        if kind == "write":
            package, version = what
            versions = list(world.versions)
            versions[package] = max(versions[package], version)
            return world._replace(versions=tuple(versions)), "ok"
        raise ValueError(kind)

    # The next request of a process, and what it makes of the answer. Reads are done at once.

    def steps(self, world, index):
        """All that may happen next to one process: (what, world)."""
        process = world.processes[index]
        if process.at == ENDED:
            return
        step = self.write if isinstance(process, Writer) else self.read
        yield from step(world, index, process)
        if world.faults:
            crashed = self.put(world, index, process._replace(at=ENDED))
            yield "crashes", crashed._replace(faults=world.faults - 1)

    def put(self, world, index, process):
        return world._replace(processes=(*world.processes[:index], process, *world.processes[index + 1 :]))

    def send(self, world, index, request, after):
        """A request that changes something: done, or, at the cost of a fault, unanswered (done later, or never)."""
        arrived, answer = self.arrive(world, request)
        yield f"{request}: {answer}", self.put(arrived, index, after(answer))
        if world.faults:
            late = world._replace(sent=tuple(sorted((*world.sent, (index, request)), key=repr)), faults=world.faults - 1)
            yield f"{request}: no answer", self.put(late, index, after("unknown"))

    def write(self, world, index, writer):
        record = world.record
        token = (index, writer.left)
        # What the compare-and-swap names; without one, what a plain PUT takes with it.
        read = None if record is None else record.etag if self.has("swap") else record.open
        if writer.at == "find":
            if record is None or not self.has("announce"):
                found = writer._replace(at="write", unannounced=record is None)
            elif writer.token in record.open and not self.has("token"):
                found = writer._replace(at="write")
            else:
                found = writer._replace(at="open", etag=read)
            yield "finds the record", self.put(world, index, found)
        elif writer.at == "open":
            after = {"ok": writer._replace(at="write", token=token), "changed": writer._replace(at="find")}
            after["unknown"] = writer._replace(at=ENDED)
            own = frozenset([token])
            # A token that it could not take out goes when the new one comes.
            old = frozenset([writer.token]) if writer.token else frozenset()
            yield from self.send(world, index, ("swap", writer.etag, own, old), after.get)
        elif writer.at == "write":
            doubt = writer._replace(at=ENDED) if self.has("doubt") else writer._replace(at="close")
            after = {"ok": writer._replace(at="acknowledge"), "unknown": doubt}
            version = world.versions[writer.package] + 1
            yield from self.send(world, index, ("write", writer.package, version), after.get)
        elif writer.at == "acknowledge":
            floor = list(world.floor)
            floor[writer.package] = max(floor[writer.package], world.versions[writer.package])
            done = writer._replace(at="close")
            yield "is acknowledged", self.put(world._replace(floor=tuple(floor)), index, done)
        elif writer.at == "close":
            again = writer._replace(at="find" if writer.left > 1 else ENDED, left=writer.left - 1, unannounced=False)
            if record is None or (writer.token is None and self.has("announce")):
                yield "has nothing to take back", self.put(world, index, again)
            else:
                yield "finds the record", self.put(world, index, writer._replace(at="swap", etag=read))
        elif writer.at == "swap":
            again = writer._replace(at="find" if writer.left > 1 else ENDED, left=writer.left - 1, unannounced=False)
            after = {"ok": again._replace(token=None), "changed": writer._replace(at="close"), "unknown": again}
            own = frozenset([writer.token]) if writer.token else frozenset()
            yield from self.send(world, index, ("swap", writer.etag, frozenset(), own), after.get)

    def read(self, world, index, reader):
        if reader.at == "look":
            record = world.record
            reader = reader._replace(due=world.floor)
            if record is not None and reader.proof == record.etag:
                yield "finds the record unchanged", self.answer(world, index, reader, reader.listed, reader.proof)
            else:
                seen = self.proof(record)
                yield "finds another record", self.put(world, index, reader._replace(at="list", seen=seen))
        elif reader.at == "list":
            first = reader._replace(at="rest", listed=(world.versions[0], None), proof=None)
            yield f"lists the first package: {world.versions[0]}", self.put(world, index, first)
        elif reader.at == "rest":
            listed = (reader.listed[0], world.versions[1])
            proof = reader.seen if self.has("before") else self.proof(world.record)
            yield f"lists the second: {world.versions[1]}", self.answer(world, index, reader, listed, proof)
            if world.record is None:
                begun = self.written(world, frozenset([NOBODY] if self.has("settle") else []))
                yield "lists, and makes the record", self.answer(begun, index, reader, listed, None)

    def proof(self, record):
        quiet = record is not None and (not record.open or not self.has("quiet"))
        return record.etag if quiet else None

    def answer(self, world, index, reader, listed, proof):
        if any(shown < due for shown, due in zip(listed, reader.due)):
            raise Stale(f"{self.who(index)} answers {listed}, and must have at least {reader.due}")
        floor = tuple(max(pair) for pair in zip(world.floor, listed))
        left = reader.left - 1
        reader = reader._replace(at="look" if left else ENDED, left=left, due=None, seen=None, listed=listed, proof=proof)
        return self.put(world._replace(floor=floor), index, reader)

    # What time does.

    def time(self, world):
        for place, (index, request) in enumerate(world.sent):
            rest = (*world.sent[:place], *world.sent[place + 1 :])
            arrived, answer = self.arrive(world, request)
            yield index, f"{request} arrives late: {answer}", arrived._replace(sent=rest)
            yield index, f"{request} never arrives", world._replace(sent=rest)
        if world.record is None:
            return
        busy = {index for index, _ in world.sent}

        def gone(index):
            return world.processes[index].at == ENDED and (index not in busy or not self.has("clear"))

        unannounced = [i for i, process in enumerate(world.processes) if isinstance(process, Writer) and process.unannounced]
        for token in sorted(world.record.open, key=repr):
            if all(map(gone, unannounced if token == NOBODY else [token[0]])):
                yield None, f"the token {token} is old: it is taken out", self.written(world, world.record.open - {token})

    def check(self):
        """The number of states, and the shortest way to a stale answer."""
        worlds, come = [self.start], [(None, "")]
        known = {self.start: 0}
        for number, world in enumerate(worlds):
            try:
                nexts = [(i, what, after) for i in range(len(world.processes)) for what, after in self.steps(world, i)]
                nexts += self.time(world)
            except Stale as stale:
                way = [f"      {stale}"]
                while number is not None and come[number][0] is not None:
                    number, what = come[number]
                    way.append(f"      {what}")
                return len(worlds), way[::-1]
            for index, what, after in nexts:
                if after not in known:
                    known[after] = len(worlds)
                    worlds.append(after)
                    come.append((number, f"{self.who(index)} {what}"))
        return len(worlds), None

    def who(self, index):
        if index is None:
            return "time:"
        return f"{type(self.start.processes[index]).__name__.lower()} {index}"


class Stale(Exception):
    pass


QUIET = Record(1, frozenset())
RUNS = [
    # writers: (package, how often it writes); readers: how often each asks; faults.
    ("one writer, two readers, a fault", dict(writers=[(0, 1)], readers=[2, 2], faults=1, record=QUIET)),
    ("two writers, one reader, a fault", dict(writers=[(0, 1), (1, 1)], readers=[3], faults=1, record=QUIET)),
    ("two writers, two readers", dict(writers=[(0, 1), (1, 1)], readers=[2, 2], faults=0, record=QUIET)),
    ("a writer that writes twice, two faults", dict(writers=[(0, 2)], readers=[3], faults=2, record=QUIET)),
    ("no record yet, two writers, one reader", dict(writers=[(0, 1), (1, 1)], readers=[3], faults=0, record=None)),
    ("no record yet, one writer, two readers, a fault", dict(writers=[(0, 1)], readers=[3, 2], faults=1, record=None)),
]


def quiet(without):
    return Record(frozenset(), frozenset()) if without == "fresh" else QUIET


def main():
    show, failed = "--show" in sys.argv, False
    for name, run in RUNS:
        states, way = Model(**run).check()
        print(f"{name}: {'STALE' if way else 'holds'}, {states} states", flush=True)
        if way:
            failed = True
            print("\n".join(way))
    for rule, text in RULES.items():
        for _, run in RUNS:
            run = dict(run, without=rule, record=quiet(rule) if run["record"] else None)
            states, way = Model(**run).check()
            if way:
                break
        print(f"without `{text}`: {f'stale after {len(way)} steps' if way else 'HOLDS, so it is not needed'}", flush=True)
        failed |= way is None
        if way and show:
            print("\n".join(way))
    sys.exit(failed)


if __name__ == "__main__":
    main()
