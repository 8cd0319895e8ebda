"""The pages of docs/ quote the code as it is."""

import re

import pytest

from tests.helpers import ROOT

QUOTATION = re.compile(r"```python\n# (raum_lightning/\S+\.py)\n(.*?)```", re.DOTALL)
QUOTATIONS = [
    (page.name, file, line.strip())
    for page in sorted((ROOT / "docs").glob("*.md"))
    for file, block in QUOTATION.findall(page.read_text())
    for line in block.splitlines()
]


@pytest.mark.parametrize(
    ("page", "file", "line"), QUOTATIONS, ids=[f"{page}-{line[:30]}" for page, _, line in QUOTATIONS]
)
def test_a_quoted_line_stands_in_the_file(page: str, file: str, line: str) -> None:
    lines = [found.strip() for found in (ROOT / file).read_text().splitlines()]
    assert line in lines, f"docs/{page} quotes {file} otherwise"


def test_both_languages_quote_the_same() -> None:
    pages = {
        page: [(file, line) for name, file, line in QUOTATIONS if name == page]
        for page in ("network.md", "network.ko.md")
    }
    assert pages["network.md"] == pages["network.ko.md"] != []
