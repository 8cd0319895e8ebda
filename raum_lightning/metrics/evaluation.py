"""Two folders of masks to scores per case, and what they come to."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import torch

from raum_lightning.atomic import write_csv, write_json
from raum_lightning.errors import CaseError, EvaluationError, LabelError
from raum_lightning.geometry import voxel_size
from raum_lightning.labels import CLASSES
from raum_lightning.machine import usable_cores
from raum_lightning.metrics.folders import Folders, MaskFile, match_folders, read_mask, read_pair
from raum_lightning.metrics.measures import METRICS, explain, part_name, select
from raum_lightning.metrics.rules import DEFAULT, Rules, find_rules
from raum_lightning.metrics.segmentation import score, select_classes
from raum_lightning.metrics.statistics import Summary, summarise
from raum_lightning.signals import leave_to_parent

# cases that are scored sooner than processes have started
FEW = 8
WRITER = "raum evaluate"
# always there: it says which cases have a region at all
PRESENT = "reference_volume"

Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Evaluation:
    """Scores by case and by the names of `metrics.score`; what could not be scored, by case; and what has no partner.

    Args:
        metrics: Names of the scores, the first of which ranks the cases.
        rules: By which they were computed.
        scores: By case; NaN is no score.
        problems: A sentence on each case that was not scored.
        folders: The files that were compared.
    """

    metrics: tuple[str, ...]
    rules: Rules
    scores: Scores
    problems: dict[str, str]
    folders: Folders

    @property
    def missing(self) -> list[str]:
        """References without a prediction."""
        return [*self.folders.without_prediction]

    @property
    def parts(self) -> list[str]:
        """What each metric is given for, such as wt, tc, et and mean."""
        first = f"{PRESENT}_"
        return [name.removeprefix(first) for name in next(iter(self.scores.values()), {}) if name.startswith(first)]

    @cached_property
    def summary(self) -> dict[str, Summary]:
        """Statistics over the scored cases, by name of the score."""
        names = next(iter(self.scores.values()), {})
        return {name: summarise(row[name] for row in self.scores.values()) for name in names}

    @property
    def present(self) -> dict[str, int]:
        """How many of the scored references have each region at all."""
        return {
            part: sum(row[f"{PRESENT}_{part}"] > 0 for row in self.scores.values())
            for part in self.parts
            if part != "mean"
        }

    @property
    def ranked_by(self) -> str | None:
        """The first metric by which one case is better than another."""
        return next((metric for metric in self.metrics if METRICS[metric].better), None)

    def worst(self, count: int) -> list[str]:
        """Return the ids of the cases that are worst in the mean of `ranked_by`, the worst first; none without one."""
        if not self.ranked_by:
            return []
        name, better = f"{self.ranked_by}_mean", METRICS[self.ranked_by].better
        known = [case for case, row in self.scores.items() if not math.isnan(row[name])]
        return sorted(known, key=lambda case: better * self.scores[case][name])[:count]

    def save(self, path: Path) -> None:
        """Write everything to `path`, JSON, and the scores of the cases beside it as CSV.

        A score that is not there is null in JSON and empty in CSV; an infinite distance is "inf" in both.
        """
        content = {
            "written_by": WRITER,
            "rules": plain_rules(self.rules),
            "metrics": {metric: explain(metric, self.rules) for metric in self.metrics},
            "summary": {name: plain(asdict(one)) for name, one in self.summary.items()},
            "present": self.present,
            "cases": {case: plain(row) for case, row in self.scores.items()},
            "problems": self.problems,
            "without_prediction": self.missing,
            "without_reference": self.folders.without_reference,
            "datasets": self.folders.datasets,
            "of_other_cases": self.folders.of_other_cases,
        }
        write_json(path, content)
        rows = ({"case": case, "rules": self.rules.name, **plain(row)} for case, row in self.scores.items())
        write_csv(path.with_suffix(".csv"), ["case", "rules", *self.summary], rows)


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON can hold them: None for NaN, "inf" for what is infinite."""
    plainer = {}
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            value = None if math.isnan(value) else str(value)
        plainer[name] = value
    return plainer


def plain_rules(rules: Rules) -> dict[str, Any]:
    """Return the rules as JSON can hold them, regions by the names of their classes."""

    def named(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {"+".join(CLASSES[index] for index in key): named(one) for key, one in value.items()}
        if isinstance(value, tuple):
            return ["+".join(CLASSES[index] for index in members) for members in value]
        return value

    return plain({name: named(value) for name, value in vars(rules).items()})


def evaluate(
    predictions: Path,
    references: Path,
    *,
    metrics: Sequence[str] = ("dice", "hd95"),
    classes: Sequence[str] = (),
    rules: str = "auto",
    dataset_predictions: str = "auto",
    dataset_references: str = "auto",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score the cases that both folders hold, several at a time, each read only while it is scored.

    `metrics` and `classes` are those of `metrics.score`; `rules` "auto" are those of the references' data set.
    `workers` is the number of processes: where not given, one for each core, or just this one for a few cases.
    `progress` is told (done, of). Raises `ConfigError` for names that do not exist, `EvaluationError` where nothing can
    be compared. Under rules that count them, cases without prediction are scored too.
    """
    if rules != "auto":
        select(metrics, find_rules(rules))
    folders = match_folders(
        predictions, references, dataset_predictions=dataset_predictions, dataset_references=dataset_references
    )
    return evaluate_pairs(folders, metrics=metrics, classes=classes, rules=rules, workers=workers, progress=progress)


def evaluate_pairs(
    folders: Folders,
    *,
    metrics: Sequence[str],
    classes: Sequence[str] = (),
    rules: str = "auto",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score pairs of masks as `evaluate` does."""
    chosen = rules_of(mask for _, mask in folders.pairs.values()) if rules == "auto" else find_rules(rules)
    names = select(metrics, chosen)
    for dataset in {mask.dataset.name: mask.dataset for _, mask in folders.pairs.values()}.values():
        select_classes(classes, dataset.classes)
    tasks: dict[str, tuple[MaskFile | None, MaskFile]] = dict(folders.pairs)
    if chosen.counts_missing:
        tasks |= {case: (None, mask) for case, mask in folders.without_prediction.items()}
    outcomes: dict[str, dict[str, float] | str] = {}
    with mapping(workers or workers_for(len(tasks))) as mapped:
        scored = mapped(partial(score_pair, metrics=names, classes=classes, rules=chosen), tasks.values())
        for case, outcome in zip(tasks, scored, strict=True):
            outcomes[case] = outcome
            if progress:
                progress(len(outcomes), len(tasks))
    scores = {case: outcome for case, outcome in outcomes.items() if isinstance(outcome, dict)}
    problems = {case: outcome for case, outcome in outcomes.items() if isinstance(outcome, str)}
    return Evaluation(names, chosen, scores, problems, folders)


def rules_of(masks: Iterable[MaskFile]) -> Rules:
    """Return the rules of the data sets that masks are from; raise `EvaluationError` where they differ."""
    found = {find_rules(mask.dataset.scoring).name for mask in masks}
    if len(found) > 1:
        raise EvaluationError(f"the references are scored by {' and '.join(sorted(found))}; say which with --rules")
    return find_rules(found.pop())


def score_pair(
    pair: tuple[MaskFile | None, MaskFile],
    *,
    metrics: Sequence[str],
    classes: Sequence[str] = (),
    rules: Rules = DEFAULT,
) -> dict[str, float] | str:
    """Return the scores of a prediction against its reference, or a sentence on why there are none."""
    prediction, reference = pair
    try:
        if prediction is None:
            target, volume = read_mask(reference, "references")
            guess, affine = torch.zeros_like(target), volume.affine
        else:
            guess, target, affine = read_pair(prediction, reference)
    except (CaseError, LabelError) as error:
        return str(error)
    names = list(dict.fromkeys([*metrics, PRESENT]))
    dataset = reference.dataset
    chosen: dict[str, Any] = {"classes": classes, "regions": dataset.regions, "names": dataset.classes}
    chosen["rules"] = rules.of(dataset.classes)
    scores = score(guess, target, metrics=names, spacing=voxel_size(affine), **chosen)
    if prediction is None:
        for name in scores:
            worst = METRICS[part_name(name)[0]].missing
            scores[name] = scores[name] if math.isnan(worst) else worst
    return scores


def workers_for(cases: int, few: int = FEW) -> int:
    """Return how many processes so many cases take: one for each core that may be used, just this one for a few."""
    return min(usable_cores(), cases) if cases > few else 1


@contextmanager
def mapping(workers: int) -> Iterator[Callable[..., Any]]:
    """Give `map`, over so many processes of which this is one; a server that has imported this module forks the others.

    This process works from the end of the list while the others start, which takes as long as a few cases. Where no
    such server can be, each imports it by itself.
    """
    if workers == 1:
        yield map
        return
    with processes(workers - 1) as pool:
        yield partial(_shared, pool)


def processes(count: int) -> ProcessPoolExecutor:
    """Return so many processes of one thread each."""
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(count, context, _start)


def _start() -> None:
    torch.set_num_threads(1)
    leave_to_parent()


def _shared(pool: ProcessPoolExecutor, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yield what the function returns, in the order of the items; this process takes the last that is not begun."""
    items = list(items)
    futures = [pool.submit(function, item) for item in items]
    own: dict[int, Any] = {}
    last = len(items) - 1
    try:
        for number, future in enumerate(futures):
            while number not in own and not future.done() and last >= number:
                if futures[last].cancel():
                    own[last] = function(items[last])
                last -= 1
            yield own.pop(number) if number in own else future.result()
    finally:
        for future in futures:
            future.cancel()
