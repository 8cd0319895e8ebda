"""The pages of docs/ quote the code as it is, and their commands are ones that the programs take.

Those of README and using.md are run, by test_readme.py, and those of own_data.md by tests/datasets/test_own_data.py.
"""

import re
import shlex

import pytest

from raum_lightning.cli import TRAINER_VERBS, main, parse
from tests.helpers import ROOT
from tests.helpers.markdown import commands

README, *DOCS = PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# `...` stands for what the reader fills in
PARSED = [page for page in DOCS if page.name not in ("own_data.md", "using.md")]
COMMANDS = sorted({line for page in PARSED for line in commands(page) if "..." not in line})
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


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith(("raum ", "lightning "))])
def test_a_command_is_one_that_the_program_takes(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    verb, *words = shlex.split(line)[1:]
    if verb in TRAINER_VERBS:
        with pytest.raises(SystemExit, match="0"):
            main([verb, *words, "--print_config"])
    else:
        parse(verb, words)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line for page in PAGES for line in commands(page) if line.startswith("make ")]
    shown = {target for line in lines for target in line.split()[1:] if "=" not in target}
    assert shown and shown <= targets


def test_files_that_the_pages_link_to_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
