"""Checks that every relative link of a Markdown page leads to a file and, if it names one, to a heading."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ["configs", "data", "distributed", "kernels", "launch", "tests", "trainer"]
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page):
    """Makes an anchor from a heading as GitHub does: lower case, without punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page):
    assert list(dead_links(page)) == []


def test_dead_links_are_detected(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A b\n[1](page.md) [2](#a-b) [3](https://example.com/x) [4](gone.md) [5](page.md#c)\n")
    assert list(dead_links(page)) == ["gone.md", "page.md#c"]
