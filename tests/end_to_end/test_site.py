"""The pages of docs/ as a site, and the commands of its first pages, run as a reader would on synthetic cases."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from raum_lightning.cli import main, plan
from raum_lightning.cli.shipped import find_experiment
from tests.helpers import EXPERIMENTS, ROOT
from tests.helpers.cases import write_brats_cases
from tests.helpers.markdown import commands
from tests.helpers.small import shrink

DOCS = ROOT / "docs"
NOT_RUN = {"pip install git+https://github.com/raum-lightning/raum"}
# so that a verb takes seconds; the last of two equal options counts
ADDED = {"phantom": "--cases 6 --shape 48 48 40"}
STEPS = 2


def in_nav(entries: object) -> Iterator[str]:
    if isinstance(entries, str):
        yield entries
    elif isinstance(entries, list):
        for entry in entries:
            yield from in_nav(entry)
    elif isinstance(entries, dict):
        for entry in entries.values():
            yield from in_nav(entry)


def test_every_page_is_in_the_navigation_once() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = [*in_nav(settings["nav"]), *settings.get("not_in_nav", "").split()]
    assert len(listed) == len(set(listed)) and set(listed) >= {path.name for path in DOCS.glob("*.md")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_site_is_built_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.chdir(ROOT)  # where pages that show a file look for it
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site")))  # strict: raises for a warning
    page = (tmp_path / "site/network/index.html").read_text()
    # each equation is marked for MathJax
    assert page.count('<div class="arithmatex">') == (DOCS / "network.md").read_text().count("$$") // 2 >= 10
    assert "Ours beside what one would use instead" in (tmp_path / "site/performance/index.html").read_text()
    assert not (tmp_path / "site/patches.py").exists()


def words_of(line: str, fits: int) -> list[str]:
    """The arguments of a command, made small."""
    verb, *words = shlex.split(line.replace("/data/", "data/"))[1:]
    files = [place + 1 for place, word in enumerate(words) if word == "-c"]
    for place in files:
        words[place] = str(find_experiment(Path(words[place])))
    if files:  # what is small comes after the files of experiment and machine
        last = files[-1] + 1
        words[last:last] = shrink(Path(words[files[0]]), Path())[2:]
    steps = ["--trainer.max_steps", str(STEPS * fits)] if verb == "fit" else []
    return [verb, *words, *steps, *ADDED.get(verb, "").split()]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["index.md", "brats.md"])
def test_the_commands_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "measure_apart", plan.measure)
    for name in ("BraTS2020", "BraTS2020_Validation"):
        write_brats_cases(Path("data", name), 6 if name == "BraTS2020" else 1)
    fits = 0
    for line in commands(DOCS / page):
        if line in NOT_RUN:
            continue
        fits += line.startswith("lightning fit")
        words = words_of(line, fits)
        assert main(words) == 0, line
        for option in ("--out", "--figure"):
            assert option not in words or Path(words[words.index(option) + 1]).is_file(), line
    assert fits == (1 if page == "index.md" else 2)


def test_the_notebook_and_files_that_the_pages_name_are_there() -> None:
    text = (DOCS / "index.md").read_text()
    assert "/blob/main/notebooks/colab.ipynb" in text and (ROOT / "notebooks/colab.ipynb").is_file()
    listed = {name for name in (DOCS / "brats.md").read_text().split("`") if name.startswith("hardware/")}
    assert listed == {f"hardware/{path.name}" for path in (EXPERIMENTS / "hardware").glob("*.yaml")}
