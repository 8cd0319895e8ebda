"""The README of a shared network: what it says, where it lies, and that a stranger's card cannot write its own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from raum_lightning.cli import main
from raum_lightning.errors import CheckpointError, ConfigError
from raum_lightning.inference.card import ModelCard
from raum_lightning.inference.readme import evaluation_of, readme
from tests.helpers.handmade import CARD
from tests.inference.test_export import REGIONS, SPEC, unetr

ROW = {"mean": 0.81234, "std": 0.1, "median": 0.8, "low": 0.75, "high": 0.86, "cases": 25}
FAR = ROW | {"mean": 7.25, "low": 5, "high": "inf"}
RESULTS: dict[str, Any] = {
    "rules": {"name": "brats2020"},
    "metrics": {"dice": "overlap", "hd95": "mm"},
    "summary": {"dice_wt": ROW | {"mean": 0.5}},
    "cleaned": {"summary": {"dice_wt": ROW, "hd95_wt": FAR, "reference_volume_wt": ROW}},
    "folds": [{}, {}, {}],
    "postprocess": {"min_mm3": {"ET": 400}},
    "provenance": {"data": "abc", "splits": "def"},
}


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    """A checkpoint of a small UNETR."""
    weights = unetr().network.state_dict()
    content = {
        "hyper_parameters": {"network": SPEC},
        "state_dict": {f"network.{name}": weight for name, weight in weights.items()},
        "model_card": REGIONS.to_plain(),
    }
    torch.save(content, tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


def test_the_text_says_what_a_user_must_know() -> None:
    card = replace(CARD, license="CC-BY-4.0", training_cases="123", flips=4, postprocess={"min_mm3": {"ET": 400}})
    text = readme(card, 3)
    assert text.startswith("---\nlicense: cc-by-4.0\nlibrary_name: raum-lightning\n")
    for said in (
        "# Tumour segmentation in MRI: flair, t1ce, t2 to WT, TC, ET",
        "An ensemble of 3 networks, whose probabilities are averaged, trained on brats2020",
        "**This is no medical device.**",
        "| labels | 0 background, 1 NCR, 2 ED, 4 ET |",
        "| window | 32 x 32 x 32 voxels, overlap 0.25 |",
        "| test-time augmentation | 4 mirrored copies |",
        "| post-processing | min_mm3 (ET 400) |",
        "- fingerprint of the training cases: `123`",
        "CC-BY-4.0. The terms of brats2020 hold",
        "## Scores\n\nNone are known.",
    ):
        assert said in text
    assert "Not stated: ask whoever gave you the file" in readme(CARD) and "license" not in readme(CARD)


def test_scores_have_their_intervals_and_say_where_they_come_from() -> None:
    shared = replace(CARD, evaluation=evaluation_of(RESULTS, "results.json"))
    raw = readme(shared, 1)
    assert "| dice | wt | 0.500 |" in raw and "0.812" not in raw and "masks as they are. This is one of these" in raw
    text = readme(replace(shared, postprocess=RESULTS["postprocess"]), 3)
    assert "| dice | wt | 0.812 | 0.750 to 0.860 | 25 |" in text and "0.500" not in text
    assert "| hd95 | wt | 7.2 | 5.0 to inf | 25 |" in text
    assert "3-fold cross-validation: each case by the one network that was not trained on it" in text
    assert "files `abc`, of the folds `def`" in text and "rules brats2020" in text
    assert "reference_volume" not in text
    alone = {"rules": {"name": "brats2023"}, "metrics": {"dice": ""}, "summary": {"dice_wt": ROW}}
    assert "by `raum evaluate`; rules brats2023" in readme(replace(CARD, evaluation=evaluation_of(alone, "a")))
    text = readme(replace(CARD, scores={"val/dice_mean": 0.7}))
    assert "| val/dice_mean | 0.700 |" in text and "by which the checkpoint was chosen" in text


def test_scores_of_regions_of_two_words_are_kept() -> None:
    metrics, parts = {"dice": "", "lesion_f1": "", "lesion_f1_small": ""}, ("tumor_core", "mean")
    names = [f"{metric}_{part}" for metric in metrics for part in parts]
    summary = dict.fromkeys([*names, "reference_volume_tumor_core", "reference_volume_mean"], ROW)
    found = evaluation_of({"rules": {"name": "brats2026"}, "metrics": metrics, "summary": summary}, "a.json")
    assert list(found["scores"]) == names
    text = readme(replace(CARD, evaluation=found))
    rows = [line.split(" | ")[:2] for line in text.split("| score |")[1].splitlines()[2:8]]
    assert rows == [[f"| {metric}", part] for metric in metrics for part in parts]


@pytest.mark.slow
def test_export_writes_it_into_the_file_and_beside_it(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.json").write_text(json.dumps(RESULTS))
    out = tmp_path / "shared/tiny.safetensors"
    words = ["export", "--checkpoint", str(untrained), "--out", str(out)]
    more = ["--license", "Apache-2.0", "--results", str(tmp_path / "r.json")]
    assert main([*words, *more]) == 0 and main([*words, *more]) == 0  # its own file it may replace
    assert f"{out.with_suffix('.md')}: what a user must know" in capsys.readouterr().out
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    text = out.with_suffix(".md").read_text()
    assert metadata["readme"] == text and "Apache-2.0" in text and "| dice | wt | 0.500 |" in text
    card = ModelCard.from_json(metadata["model_card"])
    assert card.license == "Apache-2.0" and card.evaluation["folds"] == 3
    assert readme(card) == text


def test_what_cannot_be_is_refused_before_the_export(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "--checkpoint", str(untrained), "--out", str(tmp_path / "tiny.safetensors")]
    (tmp_path / "text").write_text("text")
    (tmp_path / "empty").write_text("{}")
    for more, said in (
        (["--license", "my own"], "license='my own' is no identifier of SPDX"),
        (["--results", "none.json"], "none.json: no such file"),
        (["--results", str(tmp_path / "text")], "text: is not valid JSON"),
        (["--results", str(tmp_path / "empty")], "empty: is not a result"),
    ):
        assert main([*words, *more]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "tiny.md").write_text("mine")
    assert main(words) == 2
    assert "tiny.md: exists and was not written by `raum export`" in capsys.readouterr().err
    assert not (tmp_path / "tiny.safetensors").exists()


def test_a_strangers_card_stays_within_its_cells() -> None:
    row = {"mean": 1.0, "low": "|<img src=x>\n# new", "high": None, "cases": 2}
    found = {"rules": "<b>", "scores": {"dice_wt": row}, "folds": "<i>", "data": "`|", "splits": "x"}
    text = readme(replace(CARD, dataset="a<b|c", evaluation=found))
    assert not [tag for tag in ("<b>", "<i>", "<img", "\n# new", "a<b") if tag in text]
    wrongs: list[Any] = [{"scores": [1]}, {"scores": {"dice_wt": {"mean": []}}}, {"rules": []}, 3]
    for wrong in wrongs:
        with pytest.raises(CheckpointError, match="evaluation"):
            ModelCard.from_plain(CARD.to_plain() | {"evaluation": wrong})
    with pytest.raises(ConfigError, match="license="):
        replace(CARD, license="a\nb: c")


def test_what_takes_the_place_of_a_missing_modality_is_said() -> None:
    card = replace(CARD, may_lack=("flair", "t2"), fill_absent={"flair": "t2"})
    assert card.without(["flair"]) == "flair (t2 in its place)"
    assert card.without(["flair", "t2"]) == "flair, t2"
    assert "| in its place | t2 for flair |" in readme(card, 1) and "| in its place | 0 |" in readme(CARD, 1)
