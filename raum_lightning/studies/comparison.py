"""Scores of several methods on the same cases: paired differences, tests, and the ranking of BraTS.

A difference is that of the second method minus the first, case by case. The test is Wilcoxon's signed-rank test, two
sided; its p values are corrected by Holm over all regions and scores that are tested. The mean of the regions is shown
but not tested. The ranking is that of BraTS (arXiv:1811.02629): methods are ranked by each score of each region of each
case, and the ranks averaged within a case and then over cases.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from raum_lightning.errors import EvaluationError
from raum_lightning.json_files import parse_json
from raum_lightning.metrics import find_rules
from raum_lightning.metrics.evaluation import plain
from raum_lightning.metrics.measures import METRICS, part_name
from raum_lightning.metrics.statistics import bootstrap_interval
from raum_lightning.postprocess.variants import figures
from raum_lightning.runs.folder import RunFolder
from raum_lightning.runs.study_folder import StudyFolder

WRITER = "raum compare"
READABLE = "the JSON of raum evaluate or cross-validate, or the folder of a run that `lightning test` has scored"
# what differs by less is a tie: rounding
SAME = 1e-9

Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Results:
    """What `raum evaluate`, `raum cross-validate` or `lightning test` found: scores by case, and by which rules."""

    name: str
    rules: str
    scores: Scores

    @classmethod
    def read(cls, path: Path, *, cleaned: bool = False) -> "Results":
        """Return the results in a JSON file, or in the folder of a cross-validation or of a run, of which its test's.

        Raises `EvaluationError` for another file, and where it has no `cleaned` masks.
        """
        file = _inside(path) if path.is_dir() else path
        try:
            content = parse_json(file.read_bytes())
            chosen = content["cleaned"] if cleaned else content
            scores = {
                case: {name: _number(value) for name, value in row.items()} for case, row in chosen["cases"].items()
            }
            own = file.parent.name if file == StudyFolder(file.parent).results else file.stem
            return cls(str(content.get("name", own)), str(content["rules"]["name"]), scores)
        except FileNotFoundError:
            raise EvaluationError(f"{file}: no such file; give {READABLE}") from None
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
            lacks = "has no cleaned masks" if cleaned else "is not a result"
            raise EvaluationError(f"{file}: {lacks}; give {READABLE}") from None


def _inside(folder: Path) -> Path:
    """Return the file of results in the folder of a cross-validation or of a run."""
    places = StudyFolder(folder).results, RunFolder(folder).of("test").scores
    for place in places:
        if place.exists():
            return place
    neither = " nor ".join(str(place.relative_to(folder)) for place in places)
    raise EvaluationError(f"{folder}: has neither {neither}; give {READABLE}")


@dataclass(frozen=True)
class Difference:
    """How a second method differs from a first in one score of one region, over the cases that both have it for.

    Args:
        first: Name of the first method.
        second: Name of the second.
        metric: The score.
        part: The region.
        cases: How many cases.
        mean: Mean of second minus first.
        low: Lower end of its 95 % interval, by a bootstrap over cases.
        high: Its upper end.
        wins: Cases in which the second is better.
        ties: Cases in which they are the same.
        losses: Cases in which the second is worse.
        p: Of Wilcoxon's signed-rank test; NaN where there is none.
        p_holm: The same after Holm's correction.
    """

    first: str
    second: str
    metric: str
    part: str
    cases: int
    mean: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int
    p: float = math.nan
    p_holm: float = math.nan


@dataclass(frozen=True)
class Comparison:
    """Several methods compared.

    Args:
        names: The methods.
        rules: By which all were scored.
        cases: The cases that all have.
        left_out: For each method the cases that not all others have.
        differences: Of each pair of methods.
        ranks: The mean rank of each method, 1 the best; empty for fewer than three.
        table: For each score and region the scores, methods by cases.
    """

    names: tuple[str, ...]
    rules: str
    cases: tuple[str, ...]
    left_out: dict[str, list[str]]
    differences: tuple[Difference, ...]
    ranks: dict[str, float]
    table: dict[tuple[str, str], NDArray[np.float64]]

    @property
    def plain(self) -> dict[str, Any]:
        """Everything but the scores, as JSON can hold it."""
        return {
            "written_by": WRITER,
            "names": list(self.names),
            "rules": self.rules,
            "cases": list(self.cases),
            "left_out": self.left_out,
            "differences": [plain(asdict(one)) for one in self.differences],
            "ranks": self.ranks,
        }


def compare(results: Sequence[Results], *, metrics: Sequence[str] = ()) -> Comparison:
    """Compare methods by `metrics`, where not given those of the rules' challenge: Dice and HD95, from 2023 by lesion.

    Of the latter only those that all have, or Dice where they have neither.

    Raises:
        EvaluationError: Fewer than two results, two of one name, other rules, no common case, or a missing score.
    """
    names = tuple(one.name for one in results)
    if len(results) < 2 or len(set(names)) < len(names):
        raise EvaluationError(f"give two or more results of different names (--names), not {', '.join(names)}")
    for one in results[1:]:
        if one.rules != results[0].rules:
            raise EvaluationError(
                f"{one.name} was scored by the rules {one.rules} and {names[0]} by {results[0].rules}: score both by "
                "the same, with --rules"
            )
    cases = tuple(sorted(set.intersection(*(set(one.scores) for one in results))))
    if not cases:
        raise EvaluationError(f"{' and '.join(names)} have no case in common")
    table = dict(_table(results, cases, metrics or _ranked_by(results)))
    found = [
        _difference((names[a], names[b]), key, scores[a], scores[b])
        for a, b in combinations(range(len(names)), 2)
        for key, scores in table.items()
    ]
    corrected = holm([one.p for one in found])
    differences = tuple(Difference(**{**vars(one), "p_holm": p}) for one, p in zip(found, corrected, strict=True))
    left_out = {one.name: sorted(set(one.scores) - set(cases)) for one in results}
    ranks = dict(zip(names, mean_ranks(table).tolist(), strict=True)) if len(names) > 2 else {}
    return Comparison(names, results[0].rules, cases, left_out, differences, ranks, table)


def wilcoxon(differences: NDArray[np.float64]) -> float:
    """Return the two-sided p of the signed-rank test; 1 where nothing differs, NaN for no differences.

    Differences of zero are left out, as Wilcoxon did; exact for few cases without ties, otherwise the normal
    approximation.
    """
    if not len(differences):
        return math.nan
    differing = differences[np.abs(differences) > SAME]
    return float(stats.wilcoxon(differing).pvalue) if len(differing) else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Return p values corrected by Holm's step-down method; NaN stays and does not count."""
    corrected = [math.nan] * len(values)
    known = sorted((place for place, value in enumerate(values) if not math.isnan(value)), key=lambda i: values[i])
    largest = 0.0
    for done, place in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - done) * values[place]))
        corrected[place] = largest
    return corrected


def mean_ranks(table: Mapping[tuple[str, str], NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the mean rank of each method, 1 the best; the regions' mean is left out, a missing score is the worst."""
    ranked = []
    for (metric, part), scores in table.items():
        if part != "mean":
            worse = np.nan_to_num(-METRICS[metric].better * scores, nan=np.inf)
            ranked.append(stats.rankdata(worse, axis=0))
    means: NDArray[np.float64] = np.mean(ranked, axis=(0, 2))
    return means


def _table(
    results: Sequence[Results], cases: Sequence[str], metrics: Sequence[str]
) -> Iterator[tuple[tuple[str, str], NDArray[np.float64]]]:
    for metric in metrics:
        if metric not in METRICS or not METRICS[metric].better:
            raise EvaluationError(f"metric {metric!r} does not say which of two cases is better")
        columns = [[name for name in one.scores[cases[0]] if part_name(name)[0] == metric] for one in results]
        common = [name for name in columns[0] if all(name in others for others in columns)]
        if not common:
            lacks = next((one.name for one, own in zip(results, columns, strict=True) if not own), "each")
            raise EvaluationError(
                f"{lacks} has no scores {metric} in the regions of the others; score it with --metrics"
            )
        for name in common:
            rows = [[one.scores[case].get(name, math.nan) for case in cases] for one in results]
            yield (metric, part_name(name)[1]), np.array(rows)


def _ranked_by(results: Sequence[Results]) -> Sequence[str]:
    """Return the two metrics that the challenge ranks by; where not all have both, what they have of them, or Dice."""
    ranked = figures(find_rules(results[0].rules))[:2]
    found = [{part_name(name)[0] for name in set().union(*one.scores.values())} for one in results]
    return [name for name in dict.fromkeys((*ranked, "dice")) if all(name in one for one in found)][:2] or ranked


def _difference(
    names: tuple[str, str], key: tuple[str, str], first: NDArray[np.float64], second: NDArray[np.float64]
) -> Difference:
    metric, part = key
    known = ~(np.isnan(first) | np.isnan(second))
    with np.errstate(invalid="ignore"):
        values = np.where(first[known] == second[known], 0, second[known] - first[known])
        low, high = bootstrap_interval(values) if len(values) else (math.nan, math.nan)
        mean = float(values.mean()) if len(values) else math.nan
    better = METRICS[metric].better * values
    wins, losses = int((better > SAME).sum()), int((better < -SAME).sum())
    p = math.nan if part == "mean" else wilcoxon(values)
    ties = len(values) - wins - losses
    return Difference(*names, metric, part, len(values), mean, low, high, wins, ties, losses, p)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError(f"{value} is no score")
    return math.nan if value is None else float(value)
