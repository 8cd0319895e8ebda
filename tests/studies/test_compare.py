"""`raum compare`: pairs of the same cases, tests with literal p values, wins, and the ranking of BraTS."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from raum_lightning.cli import main
from raum_lightning.errors import EvaluationError
from raum_lightning.metrics import find_rules
from raum_lightning.metrics.statistics import summarise
from raum_lightning.runs.folder import RunFolder
from raum_lightning.studies.comparison import Results, compare, holm, mean_ranks, wilcoxon
from raum_lightning.training.callbacks.tables import CaseTable

DICE = [0.50, 0.60, 0.70, 0.80, 0.90, 0.40]
GAINS = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]


def results(
    name: str, dice: Sequence[float], *, rules: str = "brats2020", distances: Mapping[int, float] | None = None
) -> Results:
    """Scores of one region; the mean over regions is the same."""
    rows = {}
    for number, value in enumerate(dice):
        distance = (distances or {}).get(number, 10.0)
        rows[f"case{number}"] = {"dice_wt": value, "dice_mean": value, "hd95_wt": distance, "hd95_mean": distance}
    return Results(name, rules, rows)


def write(path: Path, one: Results) -> str:
    rows = {
        case: {name: None if math.isnan(value) else value for name, value in row.items()}
        for case, row in one.scores.items()
    }
    path.write_text(json.dumps({"rules": {"name": one.rules}, "cases": rows, "cleaned": {"cases": rows}}))
    return str(path)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3, 4, 5, 6], 2 / 64),  # all 6 ranks of one sign: one of 64 arrangements at each end
        ([-1, 2, 3, 4, 5], 4 / 32),  # the smallest rank of the other sign: two arrangements at each end
        ([0, 0, 1, 2, 3, 4, 5, 6], 2 / 64),  # zeros are left out
        ([0, 0, 0], 1),
    ],
)
def test_p_values_are_those_of_counting(differences: list[float], p: float) -> None:
    assert wilcoxon(np.array(differences, float)) == pytest.approx(p)
    if exact := [value for value in differences if value]:
        assert stats.wilcoxon(exact, method="exact").pvalue == pytest.approx(p)
    assert math.isnan(wilcoxon(np.array([])))


def test_holm_by_hand() -> None:
    # sorted .01 .03 .04: times 3, 2, 1, and never less than the one before
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, math.nan, 0.9])[0] == 1 and math.isnan(holm([0.5, math.nan, 0.9])[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_value_and_bonferroni(values: list[float]) -> None:
    for value, corrected in zip(values, holm(values), strict=True):
        assert value <= corrected <= min(1, len(values) * value) + 1e-12


def test_a_pair_of_methods() -> None:
    better = [value + gain for value, gain in zip(DICE, GAINS, strict=True)]
    found = compare([results("a", DICE), results("b", better, distances={0: 8.0, 1: 13.0})])
    dice, mean, distance, _ = found.differences
    assert (dice.metric, dice.part, dice.cases, dice.wins, dice.ties, dice.losses) == ("dice", "wt", 6, 6, 0, 0)
    assert dice.mean == pytest.approx(0.035) and 0.01 < dice.low < 0.035 < dice.high < 0.06
    assert dice.p == pytest.approx(2 / 64) and dice.p_holm == pytest.approx(4 / 64)
    assert math.isnan(mean.p) and math.isnan(mean.p_holm)
    # less is better in mm
    assert (distance.wins, distance.ties, distance.losses) == (1, 4, 1) and distance.mean == pytest.approx(1 / 6)
    assert found.ranks == {}


def of_nnunet(name: str, shift: float) -> Results:
    """Scores of the regions of nnU-Net's BraTS, and a volume that stands beside them."""
    rows: dict[str, dict[str, float]] = {}
    for number, value in enumerate(DICE):
        parts = ("whole_tumor", "tumor_core", "enhancing_tumor", "mean")
        rows[f"case{number}"] = {f"dice_{part}": value + shift for part in parts}
        rows[f"case{number}"] |= {f"hd95_{part}": 10 - shift for part in parts}
        rows[f"case{number}"] |= {f"reference_volume_{part}": 1.0 for part in parts}
    return Results(name, "brats2026", rows)


def test_regions_of_two_words_are_compared() -> None:
    regions = ("whole_tumor", "tumor_core", "enhancing_tumor")
    a, b, c = (of_nnunet(name, shift) for name, shift in (("a", 0.0), ("b", 0.05), ("c", -0.05)))
    found = compare([a, b])
    keys = [(metric, part) for metric in ("dice", "hd95") for part in (*regions, "mean")]
    assert [(one.metric, one.part) for one in found.differences] == keys == list(found.table)
    assert {one.wins for one in found.differences} == {6}
    # of the six that are tested
    assert [one.p_holm for one in found.differences if one.part in regions] == pytest.approx([6 * 2 / 64] * 6)
    assert compare([a, b, c]).ranks == {"a": 2, "b": 1, "c": 3}
    only = compare([a, b], metrics=["dice"])
    assert [one.part for one in only.differences] == [*regions, "mean"]


def test_only_common_cases_and_scores_count() -> None:
    few = results("b", [*DICE[:4], math.nan])
    found = compare([results("a", DICE), few])
    assert found.cases == ("case0", "case1", "case2", "case3", "case4")
    assert found.left_out == {"a": ["case5"], "b": []}
    assert found.differences[0].cases == 4 and found.differences[0].ties == 4


def test_ranks_are_averaged_within_cases_and_over_them() -> None:
    # case 1: .9 > .8 > .7; case 2: .5 = .5 > .4; distance in case 1: 1 < 2 = 2, in case 2: 3 < 4 < missing
    table = {
        ("dice", "wt"): np.array([[0.9, 0.5], [0.8, 0.5], [0.7, 0.4]]),
        ("hd95", "wt"): np.array([[2.0, 3.0], [1.0, 4.0], [2.0, math.nan]]),
        ("hd95", "mean"): np.array([[9.0, 9.0], [1.0, 1.0], [1.0, 1.0]]),
    }
    assert mean_ranks(table).tolist() == [(1 + 1.5 + 2.5 + 1) / 4, (2 + 1.5 + 1 + 2) / 4, (3 + 3 + 2.5 + 3) / 4]


def test_what_cannot_be_compared() -> None:
    a = results("a", DICE)
    with pytest.raises(EvaluationError, match="b was scored by the rules brats2023 and a by brats2020"):
        compare([a, results("b", DICE, rules="brats2023")])
    with pytest.raises(EvaluationError, match="different names"):
        compare([a, a])
    with pytest.raises(EvaluationError, match="no case in common"):
        compare([a, Results("b", "brats2020", {"other": {"dice_wt": 1.0}})])
    with pytest.raises(EvaluationError, match="has no scores nsd_10"):
        compare([a, results("b", DICE)], metrics=["nsd_10"])
    with pytest.raises(EvaluationError, match="'volume' does not say which"):
        compare([a, results("b", DICE)], metrics=["volume"])


@pytest.mark.parametrize(
    ("rules", "scores", "compared"),
    [
        ("brats2020", ("dice", "hd95", "nsd_10"), {"dice", "hd95"}),
        ("brats2020", ("dice", "recall"), {"dice"}),
        ("brats2023", ("dice", "hd95"), {"dice"}),
        ("brats2023", ("lesion_dice", "lesion_hd95", "dice"), {"lesion_dice", "lesion_hd95"}),
    ],
)
def test_without_metrics_the_challenges_are_compared(rules: str, scores: Sequence[str], compared: set[str]) -> None:
    rows = {f"case{number}": {f"{score}_wt": number / 3 for score in scores} for number in range(3)}
    found = compare([Results("a", rules, rows), Results("b", rules, rows)])
    assert {one.metric for one in found.differences} == compared


def test_a_run_is_read_by_the_scores_of_its_test(tmp_path: Path) -> None:
    run = tmp_path / "runs/unetr/first"
    run.mkdir(parents=True)
    with pytest.raises(
        EvaluationError, match=r"first: has neither results.json nor test.cases.json; give .* `lightning test`"
    ):
        Results.read(run)
    case = {"dice_wt": 0.5, "hd95_wt": math.inf, "flair/dice_wt": 0.25}
    folder = RunFolder(run).of("test")
    folder.path.mkdir()
    for more, text in (({}, None), ({"cleaned/dice_wt": 0.75, "cleaned/hd95_wt": math.nan}, "cleaned")):
        module = SimpleNamespace(case_scores={"a": case | more}, rules=find_rules("brats2023"), steps=text)
        CaseTable(folder, "unetr/first").on_test_end(SimpleNamespace(is_global_zero=True), module)
        assert Results.read(run) == Results("unetr/first", "brats2023", {"a": case})
        if not more:
            with pytest.raises(EvaluationError, match=r"cases.json: has no cleaned masks"):
                Results.read(run, cleaned=True)
    cleaned = Results.read(run, cleaned=True).scores["a"]
    assert cleaned["dice_wt"] == 0.75 and math.isnan(cleaned["hd95_wt"]) and len(cleaned) == 2


@pytest.mark.slow
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    files = [
        write(tmp_path / f"{name}.json", results(name, [value + shift for value in DICE]))
        for name, shift in (("a", 0.0), ("b", 0.05), ("c", -0.05))
    ]
    words = ["compare", *files, "--out", "compare.json", "--figure", "compare.png", "--cleaned"]
    assert main(words) == 0
    assert main(words) == 0  # what it wrote itself it may replace
    shown = capsys.readouterr().out
    assert "| b - a | dice | WT | +0.050 | +0.050 to +0.050 | 6 / 0 / 0 |" in shown
    assert "| b | 1.500 |" in shown and "| c | 2.500 |" in shown  # HD95 is the same: rank 2 for all
    content = json.loads(Path("compare.json").read_text())
    assert content["ranks"] == {"a": 2.0, "b": 1.5, "c": 2.5} and len(content["differences"]) == 3 * 4
    assert shown.strip().startswith(Path("compare.md").read_text().splitlines()[1])
    assert Path("compare.png").stat().st_size > 10_000
    Path("text.json").write_text("{}")
    for wrong, said in (
        (["nothing.json"], "nothing.json: no such file"),
        (["text.json"], "text.json: is not a result"),
        ([files[1], "--names", "x"], "--names gives 1 names for 2 results"),
        ([files[1], "--out", "a.md"], "the name must end in .json"),
    ):
        assert main(["compare", files[0], *wrong]) == 2
        assert said in capsys.readouterr().err


def test_an_infinite_distance_leaves_an_interval() -> None:
    """Where no lesion is matched; between two infinite means no percentile can be taken."""
    found = summarise([1.0, 2.0, 3.0, math.inf])
    assert 1 <= found.low < math.inf and found.high == found.mean == math.inf
