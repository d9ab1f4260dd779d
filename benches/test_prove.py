#!/usr/bin/env python3
"""Tests of `just prove` itself: nothing that fails, is skipped or is missed looks as if it were fine."""

import pathlib
import tempfile
import unittest
import xml.etree.ElementTree
from unittest import mock

import cost
import faults
import harness
import picture
import prove


def shell(script):
    return ("sh", "-c", script)


def evidence(cases, lost=0):
    line = f'{{"attack":"a loss","on":"x","cases":{cases},"of":"things","lost":{lost},"wrong":0,"hung":0}}'
    return f"echo '{line}' >>$RELEASE_SERVER_EVIDENCE;"


ATTACKS = {
    "good": evidence(50_000) + evidence(1),
    "fails": "echo 'test a::test ... FAILED'; exit 101",
    "skips": "echo 'SKIPPED: a test: no MinIO' >&2; echo 'test result: ok. 3 passed; 0 failed; 0 ignored;'",
    "ignores": "echo 'test result: ok. 3 passed; 0 failed; 2 ignored;'",
    "loses": evidence(5, lost=1) + "exit 1",
    "says nothing": "true",
    "hangs": "sleep 60",
}


def attacked(*names):
    attacks = [faults.Attack(name, name, command=shell(ATTACKS[name])) for name in names]
    with mock.patch.multiple(faults, say=lambda _: None, TOO_LONG_S=1):
        rows = [row for attack in attacks for row in faults.outcomes(attack, 1, None)]
    return harness.Results("faults", tables={"faults": rows})


class Faults(unittest.TestCase):
    def table(self, *names):
        results = attacked(*names)
        return faults.table(results), faults.clean(results)

    def test_what_is_fine_is_added_up(self):
        table, clean = self.table("good")
        self.assertIn("| a loss | x | 50,001 things | 0 | 0 | 0 |\n", table)
        self.assertIn("| **all** | | **50,001** | **0** | **0** | **0** |", table)
        self.assertTrue(clean)

    def test_what_fails_is_told(self):
        for name, told in (("fails", "`test`"), ("says nothing", "no test ran"), ("hangs", "exit code -9")):
            table, clean = self.table("good", name)
            self.assertIn(f"| {name} | directory | **FAILED**: {told} |", table)
            self.assertIn("**all, 1 FAILED**", table)
            self.assertFalse(clean, name)

    def test_what_is_skipped_is_told(self):
        table, clean = self.table("skips", "ignores")
        self.assertIn("**SKIPPED**: a test: no MinIO", table)
        self.assertIn("**SKIPPED**: 2 tests are ignored", table)
        self.assertIn("**all, 2 SKIPPED**", table)
        self.assertTrue(clean)

    def test_a_program_that_is_not_there_is_told(self):
        rows = faults.outcomes(faults.Attack("something", "no-such-program"), 1, None)
        self.assertIn("**SKIPPED**: there is no test program", faults.table(harness.Results("faults", tables={"faults": rows})))

    def test_a_loss_stands_in_the_table(self):
        table, clean = self.table("loses")
        self.assertIn("| a loss | x | 5 things | **1** | 0 | 0 |", table)
        self.assertFalse(clean)

    def test_every_program_that_writes_rows_is_in_the_list(self):
        self.assertEqual(faults.unlisted(), [])
        with mock.patch.object(faults, "ATTACKS", [attack for attack in faults.ATTACKS if attack.program != "races"]):
            self.assertEqual(faults.unlisted(), ["races"])


def measured():
    results = harness.Results("directory", "nginx", "How.", {"date": "today", "machine": "m", "versions": [], "quick": True})
    with mock.patch.object(harness, "say", lambda _: None):
        results.add("a", "fast", "/s", [120, 110], [100, 100], at_least=1.1, p99=([1, 1], [2, 2]))
        results.add("b", "slow <&>", "MB/s", [50], [100], at_least=0.8, p99=([3], [2]))
        results.add("a", "far", "/s", [500], [100])
        results.add("memory", "idle", "MB", 20, limit=15)
    return results


class Speed(unittest.TestCase):
    def test_a_ratio_is_the_median_of_the_rounds_and_judged(self):
        lines = measured().table().splitlines()
        self.assertEqual(lines[2], "| a, fast | 115 /s | 100 /s | 1.15 | ≥ 1.1 ✓ | 1.00 ✓ | 2.00 |")
        self.assertEqual(lines[3], "| … far | 500 /s | 100 /s | 5.00 |  |  |  |")
        self.assertEqual(lines[4], "| b, slow <&> | 50.0 MB/s | 100 MB/s | 0.50 | ≥ 0.8 ✗ | 3.00 ✗ | 2.00 |")
        self.assertEqual(lines[5], "| memory, idle | 20.0 MB | – | – | ≤ 15 MB ✗ |  |  |")
        self.assertIn("2 of 5 targets", prove.sentence(measured()))

    def test_what_was_saved_is_what_was_measured(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "a" / "saved.json"
            measured().save(path)
            self.assertEqual(harness.Results.load(path).table(), measured().table())

    def test_the_picture_is_whole(self):
        drawn = xml.etree.ElementTree.fromstring(picture.draw([("A <part>", measured())]))
        texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
        for words in ("A <part>", "slow <&>", "1.15", "0.50", "5.00"):
            self.assertIn(words, texts)
        self.assertNotIn("idle", texts)

    def test_money_is_for_what_is_not_free(self):
        self.assertAlmostEqual(cost.dollars({"PutObject": 1000, "ListObjectsV2": 1000, "DeleteObject": 9, "AbortMultipartUpload": 9}), 0.01)
        self.assertAlmostEqual(cost.dollars({"HeadObject": 1000, "GetObject": 1000}), 0.0008)
        with self.assertRaises(KeyError):
            cost.dollars({"SomethingNew": 1})


class Writing(unittest.TestCase):
    def test_only_what_is_between_the_markers_is_replaced(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "README.md"
            begin, end = "<!-- speed: written by `just prove --write` -->\n", "<!-- end of speed -->\n"
            path.write_text(f"before\n{begin}old\n{end}after\n")
            for _ in range(2):
                prove.write(path, "speed", "new")
                self.assertEqual(path.read_text(), f"before\n{begin}\nnew\n\n{end}after\n")
            with self.assertRaises(SystemExit):
                prove.write(path, "faults", "new")

    def test_the_documents_have_their_places(self):
        for name, marker in (("README.md", "speed"), ("README.md", "faults"), ("docs/cost.md", "cost")):
            text = (harness.ROOT / name).read_text()
            self.assertEqual(text.count(f"<!-- {marker}: written by"), 1)
            self.assertEqual(text.count(f"<!-- end of {marker} -->"), 1)


if __name__ == "__main__":
    unittest.main()
