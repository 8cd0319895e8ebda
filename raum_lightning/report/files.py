"""What the folder of a run holds; see `raum_lightning.runs.folder` for what lies where."""

import csv
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from raum_lightning.cases.case import Case
from raum_lightning.cases.discovery import find_cases
from raum_lightning.errors import CaseError, EvaluationError, RunError
from raum_lightning.json_files import is_like, parse_json, read_json
from raum_lightning.metrics import Rules, find_rules
from raum_lightning.metrics.folders import find_masks
from raum_lightning.runs.folder import RunFolder

SORTED_BY = "dice_mean"


@dataclass(frozen=True)
class Run:
    """The folder of a run, and what of its files there is."""

    folder: Path

    def __post_init__(self) -> None:
        if not self.files.exists:
            missing = self.files.config.name
            raise RunError(f"{self.folder}: is not the folder of a run (no {missing}); give runs/<experiment>/<id>")

    @property
    def files(self) -> RunFolder:
        """Where they lie."""
        return RunFolder(self.folder)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration; raises `RunError` where it is none."""
        try:
            content: dict[str, Any] = yaml.safe_load(self.text)
            if all(content[key] for key in ("run", "data", "module")):
                return content
        except (yaml.YAMLError, UnicodeDecodeError, LookupError, TypeError):
            pass
        raise RunError(f"{self.files.config}: is damaged or not what `lightning fit` writes")

    @cached_property
    def text(self) -> str:
        """The configuration as it was written."""
        return self.files.config.read_text()

    @cached_property
    def split(self) -> dict[str, list[str]]:
        """Ids of the cases that train, validate and test; nothing where it was not written."""
        path = self.files.splits
        content: dict[str, list[str]] = read_json(path, RunError) if path.exists() else {}
        if not is_like(content, Mapping[str, tuple[str, ...]]):
            raise RunError(f"{path}: is not a split; expected train, val and test with lists of ids")
        return content

    @cached_property
    def starts(self) -> list[dict[str, Any]]:
        """Date, commit, versions and hardware of each start; nothing where they were not written or cannot be read."""
        path = self.files.provenance
        try:
            content = parse_json(path.read_bytes()) if path.exists() else []
        except ValueError:
            return []
        return [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []

    @cached_property
    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """Points (step, value) by name; of a step that was logged twice the later value."""
        named: dict[str, dict[float, float]] = {}
        for row in _read_csv(self.files.metrics):
            for name, value in row.items():
                if name != "step" and value and math.isfinite(float(value)):
                    named.setdefault(name, {})[float(row["step"])] = float(value)
        return {name: sorted(points.items()) for name, points in named.items()}

    @cached_property
    def scores(self) -> dict[str, dict[str, float]]:
        """The test cases' scores by id, the best mean Dice first."""
        table = _read_csv(self.files.of("test").cases)
        rows = {row.pop("case"): {name: float(value) for name, value in row.items()} for row in table}

        def quality(item: tuple[str, dict[str, float]]) -> float:
            dice = item[1].get(SORTED_BY, 0)
            return -1 if math.isnan(dice) else dice

        return dict(sorted(rows.items(), key=quality, reverse=True))

    @cached_property
    def rules(self) -> Rules:
        """By which they are scored: those beside the scores, of older runs those of the configuration."""
        path = self.files.of("test").scores
        content: dict[str, Any] = read_json(path, RunError) if path.exists() else {}
        if is_like(content, Mapping[str, Any]) and is_like(content.get("rules"), Mapping[str, Any]):
            return find_rules(str(content["rules"].get("name")))
        return find_rules(self.config["module"].get("rules", "default"))

    @cached_property
    def cases(self) -> dict[str, Case]:
        """The cases on disk by id."""
        data = self.config["data"]
        return {case.id: case for case in find_cases(data["root"], data.get("edition") or data.get("dataset", "auto"))}

    def case(self, name: str) -> Case:
        """The case with that id; raises `CaseError` when it is no longer where it was."""
        if name not in self.cases:
            raise CaseError(f"{self.config['data']['root']}: no longer holds {name}")
        return self.cases[name]

    def prediction(self, name: str) -> Path:
        """Where `lightning predict` leaves its segmentation."""
        return self._masks.get(name, self.files.predictions / f"{name}.nii.gz")

    @cached_property
    def _masks(self) -> dict[str, Path]:
        return masks_of(self.files.predictions)

    def command(self, verb: str) -> str:
        """What has to be typed for one of the trainer's verbs."""
        words = ["lightning", verb, "-c", str(self.files.config)]
        if verb == "fit":
            words += ["--run.id", f"{self.folder.name}-again"]
        else:
            words += ["--ckpt_path", str(self.files.best if self.files.best.exists() else self.files.last)]
        return shlex.join(words)


def masks_of(folder: Path) -> dict[str, Path]:
    """Return the masks in a folder by the id of their case; none where there is no such folder."""
    try:
        return {name: mask.path for name, mask in find_masks(folder).items()}
    except EvaluationError:
        return {}


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        try:
            return list(csv.DictReader(file))
        except csv.Error as error:
            raise RunError(f"{path}: is damaged ({error}); move it away for a page without it") from error
