"""The benchmark of variants: it trains, scores, continues where it stopped, and makes its table."""

import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from raum_lightning.studies.comparison import Results
from tests.helpers import ROOT
from tests.helpers.cases import write_brats_cases

pytestmark = pytest.mark.slow
SMALL = ["--size", "32", "--embed", "24", "--heads", "2", "--test", "2", "--overlap", "0", "--steps", "2"]


@pytest.fixture(scope="module")
def ablation() -> Any:
    spec = spec_from_file_location("ablation", ROOT / "benchmarks/ablation.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules["ablation"] = module
    sys.path.insert(0, str(ROOT / "benchmarks"))  # of `variants`, beside it
    spec.loader.exec_module(module)
    sys.path.remove(str(ROOT / "benchmarks"))
    return module


def test_it_trains_scores_and_continues(
    ablation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    trained: list[tuple[str, int]] = []

    def here(tasks: Sequence[tuple[str, int]], options: Any) -> Iterator[Any]:
        trained.extend(tasks)
        return (ablation.train(name, seed, options) for name, seed in tasks)

    monkeypatch.setattr(ablation, "results", here)
    root = str(write_brats_cases(tmp_path / "cases", 6))
    words = ["--root", root, "--out", "out", "--prepared", "prepared", *SMALL]
    variants = ["v1", "v2 with recipe", ablation.STOCK]
    ablation.main([*words, "--variants", "v1"])
    ablation.main([*words, "--variants", *variants])
    assert trained == [(name, 0) for name in variants]
    rows = json.loads(Path("out/table.json").read_text())["runs"]
    assert [row["steps"] for row in rows] == [2, 2, 2]
    assert all(0 <= row["dice_mean"] <= 1 and row["hd95_mean"] >= 0 and row["gib"] > 0 for row in rows)
    split = json.loads(Path("out/splits.json").read_text())
    assert (len(split["train"]), split["val"], len(split["test"])) == (4, [], 2)
    files = [Results.read(Path("out", name)) for name in ("v1-0.json", "v2_with_recipe-0.json", "monai_torchio-0.json")]
    assert [one.name for one in files] == [f"{name}, seed 0" for name in variants]
    assert all(sorted(one.scores) == split["test"] for one in files)
    lines = Path("out/table.md").read_text().splitlines()
    assert lines[0].startswith("2 steps each, 32^3, batch 2, 4 train and 2 test cases, cpu")
    assert [line.split("|")[1].strip() for line in lines[4:]] == variants
    split |= {"val": split["train"][:1], "train": split["train"][1:]}
    Path("own.json").write_text(json.dumps(split))
    own = ablation.parse(["--root", root, "--out", "own", "--splits", "own.json"])
    ablation.prepare(own)
    assert (sorted(own.split.train), own.split.test) == (sorted(split["val"] + split["train"]), split["test"])
    with pytest.raises(SystemExit, match="out holds runs with another lr; give another --out"):
        ablation.main([*words, "--lr", "0.1"])


def test_one_that_fails_takes_no_other_along(
    ablation: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(name: str, seed: int, options: Any) -> dict[str, Any]:
        if name == "v2":
            raise ValueError("it takes no such patch")
        return {"variant": name, "seed": seed}

    monkeypatch.setattr(ablation, "train", train)
    monkeypatch.setattr(ablation, "ProcessPoolExecutor", lambda *given, **options: ThreadPoolExecutor(1))
    options = ablation.parse(["--parallel", "1", "--steps", "1"])
    found = ablation.results([("v2", 0), ("v1", 0), ("stem", 1)], options)
    assert [next(found)["variant"], next(found)["variant"]] == ["v1", "stem"]
    with pytest.raises(SystemExit, match="not trained:\nv2, seed 0: it takes no such patch"):
        next(found)
    with pytest.raises(SystemExit):
        ablation.parse(["--processor", "--workers", "2"])
    assert "leave --workers out" in capsys.readouterr().err


def test_means_and_deviations_are_over_seeds(ablation: Any, tmp_path: Path) -> None:
    row = {"variant": "v1", "device": "cpu", "steps": 4, "seconds": 2.0, "gib": 1.0, "parameters": 3.0}
    scores = [
        {f"{metric}_{part}": value for metric in ablation.METRICS for part in ablation.PARTS} for value in (0.2, 0.4)
    ]
    (found,) = ablation.summary([row | {"seed": seed} | values for seed, values in enumerate(scores)])
    assert (found["seeds"], found["steps"]) == (2, 4)
    assert found["dice_et"] == pytest.approx(0.3) and found["dice_et_sd"] == pytest.approx(0.02**0.5)
    ablation.save_cases(
        [
            {"variant": "v1", "seed": seed, "rules": "brats2020", "cases": {"a": values}}
            for seed, values in enumerate(scores)
        ],
        tmp_path,
    )
    one, mean = (Results.read(tmp_path / f"v1-{name}.json") for name in (1, "mean"))
    assert (one.name, mean.name) == ("v1, seed 1", "v1, mean of 2 seeds")
    assert one.scores["a"]["dice_wt"] == 0.4 and mean.scores["a"]["dice_wt"] == pytest.approx(0.3)
    options = ablation.parse(["--steps", "4"])
    options.split = ablation.Split(["a"], [], ["b"])
    assert "| v1 | 2 | 0.300 ± 0.141 |" in ablation.markdown([found], options, "cpu")


def test_every_variant_can_be_made(ablation: Any) -> None:
    options = ablation.parse(["--size", "64", "--embed", "24", "--heads", "2"])
    assert all(ablation.network_of(name, options) is not None for name in ablation.NAMES)
