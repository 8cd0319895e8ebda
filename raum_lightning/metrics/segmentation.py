"""Scores of a segmentation by name, for one case and as the mean over the cases of a run.

`measures` lists the scores, `rules` the rules of each year by which they are computed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from raum_lightning.errors import ConfigError
from raum_lightning.labels import CLASSES, REGIONS
from raum_lightning.metrics.measures import METRICS, select
from raum_lightning.metrics.region import ScoredCase, ScoredRegion
from raum_lightning.metrics.rules import DEFAULT, Members, Rules, find_rules
from raum_lightning.metrics.statistics import mean


def score(
    prediction: torch.Tensor,
    target: torch.Tensor,
    *,
    metrics: Sequence[str],
    spacing: Sequence[float],
    classes: Sequence[str] = (),
    rules: Rules | str = DEFAULT,
    regions: Mapping[str, Members] = REGIONS,
    names: Sequence[str] = CLASSES,
    voxels: int | None = None,
) -> dict[str, float]:
    """Return the scores of one case, as `{"dice_wt": ..., "dice_tc": ..., "dice_et": ..., "dice_mean": ..., ...}`.

    `prediction` and `target` are class indices, X Y Z, on one device, with voxels of `spacing` mm; their names are
    `names`, and voxels that the target says to ignore count for nothing. `voxels` are those of the whole grid where
    both are a crop that holds all tumour and all that is ignored. Each of `metrics`, or "all", is given for each
    of `regions`, for their mean, and for each of the single `classes`, such as "NCR", or "all", by `rules`; NaN is no
    score, and a mean leaves it out. Raises `ConfigError` for names that do not exist, masks of different shapes, and
    voxels without a size.
    """
    rules = find_rules(rules) if isinstance(rules, str) else rules
    chosen = select(metrics, rules)
    singles = select_classes(classes, names)
    if prediction.shape != target.shape:
        raise ConfigError(
            f"prediction and target must lie on the same grid, but have {tuple(prediction.shape)} "
            f"and {tuple(target.shape)} voxels"
        )
    x, y, z = check_spacing(spacing)
    case = ScoredCase(prediction, target, (x, y, z), rules, voxels)
    whole = {name.lower(): ScoredRegion(case, members) for name, members in regions.items()}
    single = {name.lower(): ScoredRegion(case, (names.index(name),)) for name in singles}
    scores: dict[str, float] = {}
    for metric in chosen:
        measure = METRICS[metric].of
        found = {f"{metric}_{name}": measure(region) for name, region in whole.items()}
        scores |= found | {f"{metric}_mean": mean(found.values())}
        scores |= {f"{metric}_{name}": measure(region) for name, region in single.items() if name not in whole}
    return scores


def check_spacing(spacing: Sequence[float]) -> tuple[float, float, float]:
    """Return the size of a voxel in mm; raise `ConfigError` unless it is three finite numbers above 0."""
    sizes = [float(size) for size in spacing]
    if len(sizes) != 3 or not all(0 < size < math.inf for size in sizes):
        raise ConfigError(
            f"spacing={sizes} must be three finite numbers of mm above 0, such as nibabel's `header.get_zooms()`; the "
            "diagonal of an affine may be negative"
        )
    return sizes[0], sizes[1], sizes[2]


def select_classes(classes: Sequence[str], names: Sequence[str] = CLASSES) -> tuple[str, ...]:
    """Return classes by name, each once; "all" are all but background. Raises `ConfigError` for other names."""
    known = names[1:]
    if unknown := [name for name in classes if name not in (*known, "all")]:
        raise ConfigError(f"class {unknown[0]!r} does not exist; choose from {', '.join(known)}, all")
    return tuple(dict.fromkeys(known if "all" in classes else classes))


def _gather(lines: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
    """Return what each rank holds; torchmetrics makes an empty tensor of floats for a rank that has had no case."""
    return gather_all_tensors(lines.to(torch.uint8), group)


class SegmentationMetrics(Metric):
    """Mean of `score` over cases, across ranks, each case counted once by its id.

    The state is text, one line of JSON per case, in bytes: ids and numbers travel together, ranks may differ in
    length or have nothing, no precision setting rounds it, and the duplicates with which DDP fills up the last batch
    are recognised.

    Args:
        metrics: Names of scores, or "all" that the rules have.
        classes: Single classes that are scored, too, by name, or "all"; checked for each data set that is followed.
        rules: By which it is scored, by class indices of `names`.
        regions: Class indices of each region that is scored.
        names: Of the classes by index, background first; by default those of glioma.

    Raises:
        ConfigError: A metric or class does not exist.
    """

    is_differentiable = False
    full_state_update = False

    lines: list[torch.Tensor] | torch.Tensor
    names: tuple[str, ...]

    def __init__(
        self,
        metrics: Sequence[str] = ("dice", "precision", "recall"),
        *,
        classes: Sequence[str] = (),
        rules: Rules = DEFAULT,
        regions: Mapping[str, Members] = REGIONS,
        names: Sequence[str] = CLASSES,
    ) -> None:
        super().__init__(dist_sync_fn=_gather)
        self.chosen, self.chosen_classes = tuple(metrics), tuple(classes)
        self.follow(rules, regions, names)
        self.add_state("lines", default=[], dist_reduce_fx="cat")

    def follow(self, rules: Rules, regions: Mapping[str, Members], names: Sequence[str] | None = None) -> None:
        """Score these regions by these rules from now on, and classes of these names, which else stay as they were.

        Raises `ConfigError`, and changes nothing, where the rules lack a chosen metric or the names a chosen class.
        """
        known = self.names if names is None else tuple(names)
        self.metrics, self.classes = select(self.chosen, rules), select_classes(self.chosen_classes, known)
        self.rules, self.regions, self.names = rules, regions, known

    def update(
        self,
        prediction: torch.Tensor,
        target: torch.Tensor,
        *,
        case: str,
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        voxels: int | None = None,
        **more: float,
    ) -> None:
        """Score one case as `score` does; `more` are values to average beside."""
        scores = self.score(prediction, target, spacing=spacing, voxels=voxels) | more
        line = bytearray(json.dumps([case, scores]) + "\n", "ascii")
        assert isinstance(self.lines, list)
        self.lines.append(torch.frombuffer(line, dtype=torch.uint8).to(self.device))

    def score(
        self, prediction: torch.Tensor, target: torch.Tensor, *, spacing: Sequence[float], voxels: int | None = None
    ) -> dict[str, float]:
        """Return the scores of one case, which is not counted."""
        chosen: dict[str, Any] = {"metrics": self.metrics, "classes": self.classes, "rules": self.rules}
        known: dict[str, Any] = {"regions": self.regions, "names": self.names}
        return score(prediction, target, spacing=spacing, voxels=voxels, **chosen, **known)

    def compute(self) -> dict[str, float]:
        """Return means over the cases of all ranks, named as in `score`; nothing where there was no case."""
        rows = list(self._rows().values())
        return {key: mean(row[key] for row in rows) for key in (rows[0] if rows else ())}

    def per_case(self) -> dict[str, dict[str, float]]:
        """Return the scores of every case of all ranks, by id, in order of ids; every rank must call it."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return dict(sorted(self._rows().items()))

    def _rows(self) -> dict[str, dict[str, float]]:
        parts = self.lines if isinstance(self.lines, list) else [self.lines]
        text = b"".join(part.cpu().numpy().tobytes() for part in parts)
        return dict(json.loads(line) for line in text.splitlines())
