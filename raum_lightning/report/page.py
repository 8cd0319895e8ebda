"""The page: sections of HTML, each of which says what it lacks and which command makes it."""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import groupby
from pathlib import Path
from statistics import fmean, median

from raum_lightning.errors import CaseError
from raum_lightning.figures.curves import chart
from raum_lightning.labels import REGIONS
from raum_lightning.metrics import explain
from raum_lightning.metrics.measures import part_name
from raum_lightning.report.calibration import calibration_section, fold_calibration
from raum_lightning.report.files import SORTED_BY, Run
from raum_lightning.report.links import anchor, linked
from raum_lightning.report.slices import case_pictures
from raum_lightning.report.style import PAGE, STYLE, bar
from raum_lightning.runs.study_folder import StudyFolder

NO_TEST = "<p>This run holds out no cases for a test (data.test_fraction).</p>"


def page(folder: Path, *, beside: Path | None = None, progress: Callable[[int, int], None] | None = None) -> str:
    """Return the page of the run in `folder` as HTML; `progress` is told (done, of) its pictures.

    Links to masks start in the folder `beside`, where the page will lie; that of the run where not given.
    What the run does not have is named, with the command that makes it. Raises `RunError` where there is no run.
    """
    run = Run(folder)
    pictures = _pictures(run, progress)
    name = f"{run.config['run']['experiment']} / {run.folder.name}"
    sections = [
        ("Curves", _curves(run)),
        ("Test cases", _table(run, pictures, beside or folder)),
        ("Best, median and worst", pictures),
        ("Calibration", _calibration(run)),
        ("Reproduce", _commands(run)),
        ("Configuration", _details(run.files.config.name, run.text)),
    ]
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections)
    return PAGE.format(
        title=escape(name), style=STYLE, head=_head(run), body=body, command="raum report", scripts="'none'"
    )


def _has_no_test(run: Run) -> bool:
    return run.split.get("test") == []


def _details(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary><pre>{escape(text)}</pre></details>"


def _missing(sentence: str, command: str) -> str:
    return f'<p class="missing">{escape(sentence)}</p><pre>{escape(command)}</pre>'


def _head(run: Run) -> str:
    data, network = run.config["data"], run.config["module"]["network"]["class_path"].rpartition(".")[2]
    cases = " ".join([", ".join(f"{len(ids)} {part}" for part, ids in run.split.items()), "cases"]).strip()
    on = f"{network} on {', '.join(data['modalities'] or ['the modalities of its data set'])}"
    facts = " &middot; ".join(map(escape, (on, f"{cases} from {data['root']}")))
    tiles, regions = [], _regions(run)
    if validated := run.curves.get("val/dice_mean"):
        step, best = max(validated, key=lambda point: point[1])
        tiles.append(("best validation Dice", best, f"mean of {', '.join(regions)} at step {step:,.0f}"))
    for region in regions:
        dice, hd95 = (f"{metric}_{region.lower()}" for metric in ("dice", "hd95"))
        values, distances = (_known([row.get(key, math.nan) for row in run.scores.values()]) for key in (dice, hd95))
        beside = f", HD95 {fmean(distances):.1f} mm" if distances else ""
        tiles += (
            [(f"test Dice {region}", fmean(values), f"mean, median {median(values):.3f}{beside}")] if values else []
        )
    shown = "".join(
        f"<div><small>{escape(a)}</small><strong>{b:.3f}</strong><small>{escape(c)}</small></div>" for a, b, c in tiles
    )
    return f'<p>{facts}</p>{_made_of(run)}<div class="tiles">{shown}</div>'


def _made_of(run: Run) -> str:
    """Return when, on what and with which versions the run was started last, and how often."""
    if not run.starts:
        return ""
    start = run.starts[-1]
    machine, versions = start.get("hardware") or {}, start.get("versions") or {}
    devices = ", ".join(machine.get("gpus") or []) or f"{machine.get('cpu', '')}, {machine.get('cores', '?')} cores"
    dates = " and ".join(dict.fromkeys(_minute(str(entry.get("started", ""))) for entry in (run.starts[0], start)))
    named = [f"started {dates}", devices, ", ".join(f"{name} {number}" for name, number in versions.items())]
    named += [f"commit {start['commit']}"] if start.get("commit") else []
    return f"<p>{' &middot; '.join(map(escape, named))}</p>"


def _minute(time: str) -> str:
    """Return an ISO time to the minute, in UTC; what is none as it is."""
    try:
        return datetime.fromisoformat(time).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return time


def _regions(run: Run) -> list[str]:
    """Return the regions that the run logged."""
    names = [column.removeprefix("val/dice_").upper() for column in run.curves if column.startswith("val/dice_")]
    return [name for name in names if name != "MEAN"] or list(REGIONS)


def _curves(run: Run) -> str:
    wanted = {
        "Loss": {"train": "train/loss", "validation": "val/loss"},
        "Dice on validation": {name: f"val/dice_{name.lower()}" for name in (*_regions(run), "mean")},
        "Learning rate": {"lr": "lr"},
    }
    charts = []
    for title, names in wanted.items():
        curves = {name: run.curves[column] for name, column in names.items() if column in run.curves}
        if curves:
            charts.append(chart(title, curves, top=1.0 if "Dice" in title else None))
    if not charts:
        return _missing(f"There is no {run.files.metrics.name}, which this writes:", run.command("fit"))
    return f'<div class="charts">{"".join(charts)}</div>'


def _table(run: Run, pictures: str, beside: Path) -> str:
    if not run.scores:
        return (
            NO_TEST
            if _has_no_test(run)
            else _missing("The test cases were not scored yet; this scores them:", run.command("test"))
        )
    names = list(next(iter(run.scores.values())))
    groups = [(metric, list(part)) for metric, part in groupby(names, key=lambda name: part_name(name)[0])]
    metrics = "".join(f'<th colspan="{len(part)}">{escape(metric)}</th>' for metric, part in groups)
    regions = [part_name(name)[1] for name in names]
    columns = "".join(f"<th>{region if region == 'mean' else escape(region.upper())}</th>" for region in regions)
    rows = [_row(linked(case, pictures, run.prediction(case), beside), scores) for case, scores in run.scores.items()]
    values = {name: [row[name] for row in run.scores.values()] for name in names}
    foot = [
        _row(title, {name: reduce(known) if (known := _known(one)) else math.nan for name, one in values.items()})
        for title, reduce in (("mean", fmean), ("median", median))
    ]
    distances = [name for name in names if name.startswith("hd95_")]
    rules = run.rules
    asked = shlex.join(["--module.metrics", "[dice, precision, recall, hd95]"])
    more = "" if distances else _missing("HD95 was not computed; this does it:", f"{run.command('test')} {asked}")
    return (
        f'<div class="wide"><table><thead><tr><th></th>{metrics}</tr><tr><th>case</th>{columns}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody><tfoot>{''.join(foot)}</tfoot></table></div>"
        "<p><small>Whole volumes, each case once, sorted by mean Dice. Rules "
        f"{escape(str(rules))}. Dice: {escape(explain('dice', rules))}.</small></p>{more}"
    )


def _row(head: str, scores: Mapping[str, float]) -> str:
    """Return a row under a head in HTML."""
    cells = "".join(
        "<td></td>" if math.isnan(value) else f"<td{bar(name, value)}>{value:.3f}</td>"
        for name, value in scores.items()
    )
    return f"<tr><th>{head}</th>{cells}</tr>"


def _known(values: Sequence[float]) -> list[float]:
    """Return those that are not NaN, which is no score."""
    return [value for value in values if not math.isnan(value)]


def _pictures(run: Run, progress: Callable[[int, int], None] | None) -> str:
    ids = [case for case, scores in run.scores.items() if not math.isnan(scores.get(SORTED_BY, math.nan))]
    if not ids:
        return (
            NO_TEST
            if _has_no_test(run)
            else _missing("No case has a Dice yet; this scores the test cases:", run.command("test"))
        )
    chosen = list(dict.fromkeys([ids[0], ids[len(ids) // 2], ids[-1]]))
    absent = [case for case in chosen if not run.prediction(case).exists()]
    names = dict(zip(chosen, ("Best", "Median", "Worst") if len(chosen) == 3 else ("Best", "Worst"), strict=False))
    if len(absent) == len(chosen):  # another case rather than none
        others = {case: "Segmented" for case in ids if run.prediction(case).exists()}
        names |= dict(list(others.items())[:1])
    wanted = {case: name for case, name in names.items() if case not in absent}
    shown = []
    try:
        for done, (case, name) in enumerate(wanted.items(), 1):
            head = f"{name}: {escape(case)}, mean Dice {run.scores[case][SORTED_BY]:.3f}"
            shown.append(f'<h3 id="{anchor(case)}">{head}</h3>')
            shown.append(case_pictures(run.case(case), run.prediction(case)))
            if progress:
                progress(done, len(wanted))
    except CaseError as error:
        return f'<p class="missing">{escape(str(error))}. Relative paths start where the run was started.</p>'
    if absent:
        said = f"Not segmented yet: {', '.join(absent)}. This segments the test cases:"
        shown.append(_missing(said, run.command("predict")))
    return "".join(shown)


def _calibration(run: Run) -> str:
    found = StudyFolder.of_run(run.folder)
    if found is None or (calibration := fold_calibration(*found)) is None:
        said = "Whether probabilities are right as often as they say is measured by a cross-validation; this is one:"
        return _missing(said, shlex.join(["raum", "cross-validate", "-c", str(run.files.config)]))
    return calibration_section([calibration], f"the cases that {run.folder.name} has not seen")


def _commands(run: Run) -> str:
    lines = [run.command(verb) for verb in ("fit", "test", "predict")]
    lines.append(shlex.join(["raum", "report", str(run.folder)]))
    return f"<pre>{escape(chr(10).join(lines))}</pre>"
