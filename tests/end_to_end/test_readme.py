"""Every command that the documentation shows is one that the program takes."""

import argparse
import re
import shlex
from importlib import import_module

import pytest

from raum_lightning.cli import TRAINER_VERBS, main
from tests.helpers import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(program: str) -> list[str]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text().replace("\\\n", " "), re.DOTALL):
            lines = (line.split("#")[0].strip() for line in block.splitlines())
            found += [line for line in lines if line.startswith(f"{program} ")]
    return sorted(set(found))


@pytest.mark.parametrize("line", commands("lightning"))
def test_trainer_commands(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(line)[1:]
    assert words[0] in TRAINER_VERBS
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--print_config"])


@pytest.mark.parametrize("line", commands("raum"))
def test_tool_commands(line: str) -> None:
    verb, *words = shlex.split(line)[1:]
    parser = argparse.ArgumentParser()
    import_module(f"raum_lightning.cli.{verb}").configure(parser)
    parser.parse_args(words)


def test_make_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = {target for line in commands("make") for target in line.split()[1:]}
    assert shown and shown <= targets


def test_files_that_the_pages_link_to_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
