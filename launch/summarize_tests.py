"""Prints the failed tests of a ctest run with their output, then one line: N passed, N failed, N skipped.

Counts the tests inside GoogleTest and pytest programs if the output shows them, otherwise the program itself.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

GTEST_LINE = re.compile(r"\[ +(OK|SKIPPED|FAILED) +\] [\w./]+.*\(\d+ ms\)")
PYTEST_LAST_LINE = re.compile(r"^=* ?((?:\d+ \w+(?:, )?)+) in [\d.]+s", re.MULTILINE)
PYTEST_KINDS = {"passed": "passed", "xfailed": "passed", "failed": "failed", "error": "failed", "errors": "failed",
                "xpassed": "failed", "skipped": "skipped"}
SHOWN_LINES = 60


class Counts(NamedTuple):
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def plus(self, other):
        return Counts(*(a + b for a, b in zip(self, other)))


def counts_of_gtest(output):
    kinds = [match.group(1) for match in GTEST_LINE.finditer(output)]
    return Counts(kinds.count("OK"), kinds.count("FAILED"), kinds.count("SKIPPED"))


def counts_of_pytest(output):
    counts = dict(passed=0, failed=0, skipped=0)
    match = PYTEST_LAST_LINE.search(output)
    for number, kind in re.findall(r"(\d+) (\w+)", match.group(1)) if match else []:
        if kind in PYTEST_KINDS:
            counts[PYTEST_KINDS[kind]] += int(number)
    return Counts(**counts)


def counts_of(program):
    """Counts the tests of one program. program: a testcase element of ctest's JUnit file."""
    output = program.findtext("system-out") or ""
    inside = counts_of_gtest(output).plus(counts_of_pytest(output))
    status = program.get("status")
    if status == "fail":  # also for a crash, a timeout, or an error after the last test
        return inside if inside.failed else inside.plus(Counts(failed=1))
    if status != "run":  # skipped or disabled
        return inside.plus(Counts(skipped=1)) if not any(inside) else inside
    return inside if any(inside) else Counts(passed=1)


def show_failure(program):
    lines = (program.findtext("system-out") or "(no output)").splitlines()
    print(f"\n--- {program.get('name')} failed ---")
    if len(lines) > SHOWN_LINES:
        print(f"... the last {SHOWN_LINES} of {len(lines)} lines; all are in build/Testing/Temporary/LastTest.log")
    print("\n".join(lines[-SHOWN_LINES:]))


def main():
    try:
        programs = list(ElementTree.parse(sys.argv[1]).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        sys.exit(f"ctest left no readable results: {error}")
    failed = [program for program in programs if program.get("status") == "fail"]
    for program in failed:
        show_failure(program)
    if failed:
        print("\nfailed: " + ", ".join(program.get("name") for program in failed))
    total = Counts()
    for program in programs:
        total = total.plus(counts_of(program))
    print(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped")
    sys.exit(1 if total.failed or not programs else 0)


if __name__ == "__main__":
    main()
