"""One self-contained page of a run: curves, test cases by Dice, pictures of three of them, configuration, commands.

It needs neither a network nor a script, and the page's own policy forbids the browser to load anything.
"""

import base64
import csv
import io
import json
import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from itertools import groupby
from pathlib import Path
from statistics import fmean, median
from typing import Any

import yaml

from raum_lightning.cases import Case, CaseError, find_cases
from raum_lightning.figures import Scan, draw
from raum_lightning.figures.curves import chart
from raum_lightning.labels import REGIONS
from raum_lightning.run import CHECKPOINTS, RunError

Rows = list[dict[str, str]]
SHOWN = ("flair", "t1ce")
SORTED_BY = "dice_mean"


@dataclass(frozen=True)
class Run:
    """The folder of a run, and what of its files there is."""

    folder: Path

    def __post_init__(self) -> None:
        if not (self.folder / "config.yaml").is_file():
            raise RunError(f"{self.folder}: is not the folder of a run (no config.yaml); give runs/<experiment>/<id>")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration."""
        content: dict[str, Any] = yaml.safe_load(self.text)
        return content

    @cached_property
    def text(self) -> str:
        """The configuration as it was written."""
        return (self.folder / "config.yaml").read_text()

    @cached_property
    def split(self) -> dict[str, list[str]]:
        """Ids of the cases that train, validate and test."""
        content: dict[str, list[str]] = json.loads((self.folder / "splits.json").read_text())
        return content

    @cached_property
    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """Points (step, value) by name; of a step that was logged twice the later value."""
        named: dict[str, dict[float, float]] = {}
        for row in _read_csv(self.folder / "metrics.csv"):
            for name, value in row.items():
                if name != "step" and value and math.isfinite(float(value)):
                    named.setdefault(name, {})[float(row["step"])] = float(value)
        return {name: sorted(points.items()) for name, points in named.items()}

    @cached_property
    def scores(self) -> dict[str, dict[str, float]]:
        """The test cases' scores by id, the best mean Dice first."""
        rows = {
            row.pop("case"): {k: float(v) for k, v in row.items()} for row in _read_csv(self.folder / "test/cases.csv")
        }
        return dict(sorted(rows.items(), key=lambda item: item[1].get(SORTED_BY, 0), reverse=True))

    @cached_property
    def cases(self) -> dict[str, Case]:
        """The cases on disk by id; raises `CaseError` when they are not where they were."""
        data = self.config["data"]
        return {case.id: case for case in find_cases(data["root"], data["edition"])}

    def command(self, verb: str) -> str:
        """What has to be typed for one of the trainer's verbs."""
        words = ["lightning", verb, "-c", str(self.folder / "config.yaml")]
        if verb == "fit":
            words += ["--run.id", f"{self.config['run']['id']}-again"]
        else:
            best = self.folder / CHECKPOINTS / "best.ckpt"
            words += ["--ckpt_path", str(best if best.exists() else best.with_name("last.ckpt"))]
        return shlex.join(words)


def page(folder: Path, *, progress: Callable[[int, int], None] | None = None) -> str:
    """The page of the run in `folder` as HTML; `progress` is told (done, of) its pictures.

    What the run does not have is named, with the command that makes it. Raises `RunError` where there is no run.
    """
    run = Run(folder)
    name = "{experiment} / {id}".format(**run.config["run"])
    sections = [
        ("Curves", _curves(run)),
        ("Test cases", _table(run)),
        ("Best, median and worst", _pictures(run, progress)),
        ("Reproduce", _commands(run)),
        ("Configuration", f"<details><summary>config.yaml</summary><pre>{escape(run.text)}</pre></details>"),
    ]
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections)
    return PAGE.format(title=escape(name), style=STYLE, head=_head(run), body=body)


def _read_csv(path: Path) -> Rows:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _missing(sentence: str, command: str) -> str:
    return f'<p class="missing">{escape(sentence)}</p><pre>{escape(command)}</pre>'


def _head(run: Run) -> str:
    data, network = run.config["data"], run.config["module"]["network"]["class_path"].rpartition(".")[2]
    counts = ", ".join(f"{len(run.split[part])} {part}" for part in ("train", "val", "test"))
    facts = f"{network} on {', '.join(data['modalities'])} &middot; {counts} cases from {escape(str(data['root']))}"
    tiles = []
    if validated := run.curves.get("val/dice_mean"):
        step, best = max(validated, key=lambda point: point[1])
        tiles.append(("best validation Dice", best, f"mean of WT, TC, ET at step {step:,.0f}"))
    for region in REGIONS:
        values = [row[f"dice_{region.lower()}"] for row in run.scores.values() if SORTED_BY in row]
        tiles += [(f"test Dice {region}", fmean(values), f"mean, median {median(values):.3f}")] if values else []
    shown = "".join(f"<div><small>{a}</small><strong>{b:.3f}</strong><small>{c}</small></div>" for a, b, c in tiles)
    return f'<p>{facts}</p><div class="tiles">{shown}</div>'


def _curves(run: Run) -> str:
    wanted = {
        "Loss": {"train": "train/loss", "validation": "val/loss"},
        "Dice on validation": {name.upper(): f"val/dice_{name}" for name in ("wt", "tc", "et")}
        | {"mean": "val/dice_mean"},
        "Learning rate": {"lr": "lr"},
    }
    charts = []
    for title, names in wanted.items():
        curves = {name: run.curves[column] for name, column in names.items() if column in run.curves}
        if curves:
            charts.append(chart(title, curves, top=1.0 if "Dice" in title else None))
    if not charts:
        return _missing(
            "The run has no metrics.csv; a run with a CSVLogger among trainer.logger has.", run.command("fit")
        )
    return f'<div class="charts">{"".join(charts)}</div>'


def _table(run: Run) -> str:
    if not run.scores:
        return _missing("The test cases were not scored yet; this scores them:", run.command("test"))
    names = list(next(iter(run.scores.values())))
    groups = [(metric, list(part)) for metric, part in groupby(names, key=lambda name: name.rpartition("_")[0])]
    metrics = "".join(f'<th colspan="{len(part)}">{escape(metric)}</th>' for metric, part in groups)
    columns = "".join(_heading(name, name == part[0]) for _, part in groups for name in part)
    rows = [_row(case, scores) for case, scores in run.scores.items()]
    foot = []
    for title, reduce in (("mean", fmean), ("median", median)):
        foot.append(_row(title, {name: reduce([row[name] for row in run.scores.values()]) for name in names}))
    return (
        f'<div class="wide"><table><thead><tr><th></th>{metrics}</tr><tr><th>case</th>{columns}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody><tfoot>{''.join(foot)}</tfoot></table></div>"
        "<p><small>Whole volumes, each case once, sorted by mean Dice. Dice by the rules of BraTS up to 2022: 1 where "
        "reference and prediction are empty, 0 where one of them is.</small></p>"
    )


def _heading(name: str, first: bool) -> str:
    region = name.rpartition("_")[2]
    return f"<th{' class=first' if first else ''}>{escape(region if region == 'mean' else region.upper())}</th>"


def _row(case: str, scores: Mapping[str, float]) -> str:
    cells = []
    for name, value in scores.items():
        bar = f' class="bar" style="--v:{max(0.0, min(1.0, value)):.3f}"' if name.startswith("dice_") else ""
        cells.append(f"<td{bar}>{value:.3f}</td>")
    return f"<tr><th>{escape(case)}</th>{''.join(cells)}</tr>"


def _pictures(run: Run, progress: Callable[[int, int], None] | None) -> str:
    ids = list(run.scores)
    if not ids or SORTED_BY not in run.scores[ids[0]]:
        return _missing("No case has a Dice yet; this scores the test cases:", run.command("test"))
    chosen = dict.fromkeys([ids[0], ids[len(ids) // 2], ids[-1]])
    names = ["Best", "Median", "Worst"] if len(chosen) == 3 else ["Best", "Worst"]
    shown = []
    for done, (name, case) in enumerate(zip(names, chosen, strict=False), 1):
        heading = f"<h3>{name}: {escape(case)}, mean Dice {run.scores[case][SORTED_BY]:.3f}</h3>"
        shown.append(heading + _picture(run, case))
        if progress:
            progress(done, len(chosen))
    return "".join(shown)


def _picture(run: Run, name: str) -> str:
    prediction = run.folder / "predictions" / f"{name}.nii.gz"
    if not prediction.exists():
        return _missing(f"There is no {prediction}; this segments the test cases:", run.command("predict"))
    try:
        if name not in run.cases:
            raise CaseError(f"{run.config['data']['root']}: no longer holds {name}")
        case = run.cases[name]
        scan = Scan.read(
            case, prediction, [modality for modality in SHOWN if modality in case.images] or list(case.images)
        )
    except CaseError as error:
        return f'<p class="missing">{escape(str(error))}. Paths are relative to where the run was started.</p>'
    file = io.BytesIO()
    draw(scan, isolate=False).savefig(file, format="png", dpi=150)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="Slices of {escape(name)}, reference and prediction" src="data:image/png;base64,{data}">'


def _commands(run: Run) -> str:
    lines = [run.command(verb) for verb in ("fit", "test", "predict")] + [
        shlex.join(["raum", "report", str(run.folder)])
    ]
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body><header><h1>{title}</h1>{head}</header>{body}</body>
</html>
"""
STYLE = """
:root { color-scheme: light dark; --ink: #1b1e23; --soft: #636b76; --line: #dfe2e6; --paper: #fff; --raised: #f5f6f8;
  --bar: #cfe9e5; --warn: #9a5b00; --c0: #1f6fd1; --c1: #d9480f; --c2: #b8860b; --c3: #1b1e23; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa2ad; --line: #343a42; --paper: #15181c;
  --raised: #1e2228; --bar: #1f4a47; --warn: #f0b357; --c0: #6cb0ff; --c1: #ff8f5e; --c2: #e6c35c; --c3: #e6e8eb; } }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; color: var(--ink);
  background: var(--paper); max-width: 76rem; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -.02em; margin: 0; }
h2 { font-size: 1.25rem; margin: 3rem 0 1rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
header p, small, figcaption { color: var(--soft); }
header p { margin: .4rem 0 1.5rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; }
.tiles div { flex: 1 1 10rem; background: var(--raised); border-radius: .5rem; padding: .8rem 1rem; }
.tiles strong { display: block; font-size: 1.9rem; line-height: 1.25; font-weight: 600; }
small { display: block; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(21rem, 1fr)); gap: 1rem 1.5rem; }
.chart { margin: 0; }
figcaption b { color: var(--ink); display: block; }
.key { margin-right: .8rem; white-space: nowrap; }
.key::before { content: ""; display: inline-block; width: 1rem; height: 2px; margin-right: .35rem;
  vertical-align: middle; background: var(--c); }
svg { width: 100%; height: auto; display: block; }
svg text { font-size: 11px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.y { text-anchor: end; dominant-baseline: middle; } .x { text-anchor: middle; } .unit { text-anchor: end; }
.grid { stroke: var(--line); fill: none; }
.line { stroke: var(--c); fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 500; } tr > :first-child { text-align: left; }
thead th { color: var(--soft); } thead tr:first-child th { text-align: center; border-bottom: 0; }
tfoot { font-weight: 600; }
.bar { background: linear-gradient(to right, var(--bar) calc(var(--v) * 100%), transparent 0); }
img { width: 100%; height: auto; border-radius: .5rem; display: block; }
pre { background: var(--raised); border-radius: .5rem; padding: .9rem 1rem; overflow-x: auto; font-size: .8rem;
  line-height: 1.5; }
summary { cursor: pointer; }
.missing { color: var(--warn); margin-bottom: .3rem; }
"""
