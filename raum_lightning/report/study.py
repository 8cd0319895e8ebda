"""The page of a cross-validation: its tables, calibration, every case with links, and the worst to scroll through."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from raum_lightning.cases.case import Case
from raum_lightning.cases.discovery import find_cases
from raum_lightning.errors import CaseError, RunError
from raum_lightning.json_files import is_like, read_json
from raum_lightning.metrics.measures import part_name
from raum_lightning.report.calibration import BINS, calibration_section
from raum_lightning.report.files import masks_of
from raum_lightning.report.links import anchor, linked
from raum_lightning.report.scores import SORT
from raum_lightning.report.slices import case_pictures
from raum_lightning.report.style import PAGE, STYLE
from raum_lightning.runs.study_folder import StudyFolder
from raum_lightning.yaml_files import read_yaml

PICTURES = 4
COLUMNS = ("score", "region", "mean", "sd", "median", "95 % from", "to", "cases")
KEYS = ("mean", "std", "median", "low", "high", "cases")
# what results.json holds, and may hold
_SCORES = Mapping[str, Mapping[str, float | str | None]]
REQUIRED = {
    "cases": _SCORES,
    "summary": _SCORES,
    "cleaned": {"cases": _SCORES, "summary": _SCORES},
    "metrics": Mapping[str, str],
    "fold_of": Mapping[str, int],
    "folds": [{"cases": int, "raw": _SCORES, "cleaned": _SCORES}],
    "worst": [str],
}
OPTIONAL = {
    "name": str,
    "parts": [str],
    "rules": Mapping[str, Any],
    "postprocess": Mapping[str, Any],
    "provenance": Mapping[str, Any],
    "calibration": Mapping[str, Any] | None,
}
_BIN = {"voxels": float, "before": float, "after": float, **{key: [tuple[float, float, float]] for key in BINS}}


@dataclass(frozen=True)
class Results:
    """What results.json and the configuration of a cross-validation say."""

    folder: StudyFolder

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """The results; raises `RunError` where they are not there or damaged."""
        path = self.folder.results
        if not path.exists():
            raise RunError(f"{path}: is not there yet; `raum cross-validate` with the same options makes it")
        try:
            content: Mapping[str, Any] = read_json(path, RunError, REQUIRED, OPTIONAL)
        except RunError as error:
            raise RunError(f"{error}; `raum cross-validate --rescore {self.folder.path}` writes it again") from None
        return content

    @cached_property
    def cases(self) -> dict[str, Case]:
        """The cases on disk by id."""
        data = read_yaml(self.folder.config)[0]["data"]
        return {case.id: case for case in find_cases(data["root"], data.get("edition") or data.get("dataset", "auto"))}

    def mask(self, case: str) -> Path:
        """Return the prediction of a case as its network made it."""
        return self._masks.get(case, self.folder.predictions / f"{case}.nii.gz")

    @cached_property
    def _masks(self) -> dict[str, Path]:
        return masks_of(self.folder.predictions)


def page(path: Path, *, beside: Path | None = None, progress: Callable[[int, int], None] | None = None) -> str:
    """Return the page of the cross-validation in the folder `path` as HTML; `progress` is told (done, of) pictures.

    Links to masks start in the folder `beside`, where the page will lie; that of the cross-validation where not given.
    Raises `RunError` where there are no results.
    """
    results = Results(StudyFolder(path))
    content = results.content
    pictures = _pictures(results, progress)
    sections = [
        ("All cases, raw", _summary(content, content["summary"])),
        ("All cases, cleaned", _summary(content, content["cleaned"]["summary"]) + _steps(content)),
        ("By fold", _folds(content)),
        ("Calibration", _calibration(results)),
        ("Cases", _cases(results, pictures, beside or path)),
        ("Worst cases", pictures),
        ("How it was made", _made(content)),
        ("Reproduce", _commands(results)),
    ]
    body = "".join(f"<section><h2>{title}</h2>{shown}</section>" for title, shown in sections)
    rules = content.get("rules", {})
    head = (
        f"{len(content['cases'])} cases, {len(content['folds'])} folds; each case segmented by the fold that has not "
        f"seen it, and scored once, by the rules {rules.get('name')}"
    )
    frame = {"style": STYLE, "command": "raum report", "scripts": "'unsafe-inline'"}
    title = escape(str(content.get("name", path.name)))
    return PAGE.format(title=title, head=f"<p>{escape(head)}</p>", body=body + SORT, **frame)


def _summary(content: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    rows = []
    for name, one in summary.items():
        metric, part = part_name(name)
        if metric not in content["metrics"]:
            continue  # volumes stand beside scores
        cells = [_number(one.get(key), metric) for key in KEYS]
        rows.append([escape(metric), escape(_region(part)), *cells])
    note = "95 % interval: of the mean, by a bootstrap over cases. " + " ".join(
        f"{metric}: {text}." for metric, text in content["metrics"].items()
    )
    return f"{_table(COLUMNS, rows)}<p><small>{escape(note)}</small></p>"


def _steps(content: Mapping[str, Any]) -> str:
    steps = "; ".join(f"{key} {_plain(value)}" for key, value in content.get("postprocess", {}).items()) or "nothing"
    said = f"Post-processing (post.yaml): {steps}, chosen on the same predictions, each step by leaving one case out."
    return f"<p><small>{escape(said)}</small></p>"


def _plain(value: Any) -> str:
    """Return a list or a mapping as words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _folds(content: Mapping[str, Any]) -> str:
    parts = content.get("parts", [])
    heads = ["fold", "cases", *(f"Dice {_region(part)}" for part in parts), "HD95", "Dice cleaned", "steps", "patches"]
    rows = []
    for fold, one in enumerate(content["folds"]):
        dice = [_mean(one["raw"], f"dice_{part}") for part in parts]
        more = [_mean(one["raw"], "hd95_mean"), _mean(one["cleaned"], "dice_mean")]
        spent = ["" if one.get(key) is None else f"{one[key]:,}" for key in ("steps", "patches")]
        rows.append([str(fold), str(one["cases"]), *dice, *more, *spent])
    return _table(heads, rows)


def _calibration(results: Results) -> str:
    found = results.content.get("calibration") or {}
    folds = found.get("folds")
    if (
        not folds
        or not is_like(found, {"folds": [_BIN], "temperature": float})
        or not all(fold[key] for fold in folds for key in BINS)
    ):
        command = shlex.join(["raum", "cross-validate", "--rescore", str(results.folder.path)])
        return (
            f'<p class="missing">The results have no reliability diagram; this adds it:</p><pre>{escape(command)}</pre>'
        )
    said = f"{len(results.content['cases'])} cases, each by the fold that has not seen it"
    together = calibration_section(folds, said)
    temperature = f"Fitted to all folds the temperature is {results.content['calibration']['temperature']:.3f}."
    return f"{together}<p><small>{escape(temperature)}</small></p>"


def _cases(results: Results, pictures: str, beside: Path) -> str:
    content = results.content
    names = [f"dice_{part}" for part in content.get("parts", [])]
    names += [name for name in ("hd95_mean", "nsd_10_mean", "lesion_dice_mean") if name in content["summary"]]
    heads = ["case", "fold", *(_said(name) for name in names), *(["cleaned Dice"] if names else [])]
    rows = []
    for case, row in content["cases"].items():
        cleaned = content["cleaned"]["cases"].get(case, {}).get("dice_mean")
        cells = [_number(row.get(name), part_name(name)[0]) for name in names]
        head = linked(case, pictures, results.mask(case), beside)
        rows.append([head, str(content["fold_of"][case]), *cells, *([_number(cleaned, "dice")] if names else [])])
    return f"{_table(heads, rows)}<p><small>A click on a heading sorts; an arrow leads to the mask.</small></p>"


def _pictures(results: Results, progress: Callable[[int, int], None] | None) -> str:
    chosen = list(results.content["worst"])[:PICTURES]
    shown = []
    for done, case in enumerate(chosen, 1):
        row = results.content["cases"].get(case, {})
        dice = _number(row.get("dice_mean"), "dice")
        shown.append(f'<h3 id="{anchor(case)}">{escape(case)}: mean Dice {dice}</h3>')
        try:
            if case not in results.cases:
                raise CaseError(f"{case}: is no longer where it was")
            shown.append(case_pictures(results.cases[case], results.mask(case)))
        except CaseError as error:
            shown.append(f'<p class="missing">{escape(str(error))}</p>')
        if progress:
            progress(done, len(chosen))
    return "".join(shown)


def _made(content: Mapping[str, Any]) -> str:
    about = content.get("provenance", {})
    machine = about.get("hardware") or {}
    devices = [*(machine.get("gpus") or []), str(machine.get("cpu", "")), f"{machine.get('cores', '?')} cores"]
    versions = ", ".join(f"{name} {number}" for name, number in (about.get("versions") or {}).items())
    rows = {
        "parameters": "" if about.get("parameters") is None else f"{about['parameters']:,}",
        "hardware": ", ".join(filter(None, devices)),
        "git commit": about.get("commit") or "unknown",
        "versions": versions,
        "data": f"{about.get('data')}, of names and sizes of all files",
        "splits": about.get("splits"),
    }
    return _table(["", ""], [[name, escape(str(text))] for name, text in rows.items()])


def _commands(results: Results) -> str:
    folder = str(results.folder.path)
    lines = [str(results.content.get("provenance", {}).get("command", "")), f"raum cross-validate --rescore {folder}"]
    return f"<pre>{escape(chr(10).join([*lines, shlex.join(['raum', 'report', folder])]))}</pre>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table that sorts by its headings, of cells in HTML, the first of each row as its head."""
    top = "".join(f"<th><button>{escape(head)}</button></th>" if head else "<th></th>" for head in heads)
    body = "".join(f"<tr><th>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows)
    return f'<div class="wide"><table class="sortable"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _mean(summary: Mapping[str, Any], name: str) -> str:
    return _number((summary.get(name) or {}).get("mean"), part_name(name)[0])


def _number(value: Any, metric: str) -> str:
    """Return a score as HTML: empty where there is none; infinite distances are a word already."""
    if value is None or isinstance(value, str):
        return escape(value or "")
    return str(value) if isinstance(value, int) else f"{value:.{1 if metric.endswith('hd95') else 3}f}"


def _region(part: str) -> str:
    return part if part == "mean" else part.upper()


def _said(name: str) -> str:
    metric, part = part_name(name)
    return f"{metric} {_region(part)}"
