"""Tests the last line that launch/test.sh prints."""

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "launch" / "summarize_tests.py"

GTEST = """[ RUN      ] A.b
[       OK ] A.b (0 ms)
[ RUN      ] A.c
{third} A.c (12 ms)
[  SKIPPED ] A.d (0 ms)
[  PASSED  ] 2 tests.
[  FAILED  ] A.c
"""
PYTEST = "....s   [100%]\n=== 4 passed, 1 skipped, 2 warnings in 3.05s ===\n"


def summarize(tmp_path, *programs):
    """programs: (name, ctest's status, output). Returns (exit code, last line, all output)."""
    cases = "".join(f'<testcase name="{name}" status="{status}"><system-out><![CDATA[{output}]]></system-out></testcase>'
                    for name, status, output in programs)
    path = tmp_path / "results.xml"
    path.write_text(f"<testsuite>{cases}</testsuite>")
    result = subprocess.run([sys.executable, TOOL, path], capture_output=True, text=True)
    return result.returncode, result.stdout.splitlines()[-1], result.stdout


def test_tests_inside_programs_are_counted(tmp_path):
    programs = [("gtest", "run", GTEST.format(third="[       OK ]")), ("pytest", "run", PYTEST), ("script", "run", "fine")]
    assert summarize(tmp_path, *programs)[:2] == (0, "7 passed, 0 failed, 2 skipped")


def test_a_failed_test_is_named_and_shown(tmp_path):
    code, last, text = summarize(tmp_path, ("numbers_test", "fail", GTEST.format(third="[  FAILED  ]")))
    assert (code, last) == (1, "1 passed, 1 failed, 1 skipped")
    assert "failed: numbers_test" in text and "A.c" in text


def test_a_crash_after_passing_tests_is_a_failure(tmp_path):
    programs = ("crash_test", "fail", "[       OK ] A.b (0 ms)\nSegmentation fault")
    assert summarize(tmp_path, programs)[:2] == (1, "1 passed, 1 failed, 0 skipped")


def test_a_skipped_script(tmp_path):
    assert summarize(tmp_path, ("format", "notrun", "no clang-format"))[:2] == (0, "0 passed, 0 failed, 1 skipped")


def test_no_tests_at_all_is_a_failure(tmp_path):
    assert summarize(tmp_path)[:2] == (1, "0 passed, 0 failed, 0 skipped")
