"""The page of an evaluation: its statistics, the cases as a table that sorts, and pictures of the worst."""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from raum_lightning.cases.case import Case
from raum_lightning.cases.discovery import find_cases
from raum_lightning.errors import CaseError, UserError
from raum_lightning.figures import Scan, dots, draw
from raum_lightning.metrics import explain
from raum_lightning.metrics.evaluation import WRITER, Evaluation
from raum_lightning.metrics.folders import MaskFile, read_pair
from raum_lightning.report.style import PAGE, STYLE, bar

PICTURES = 10
SHOWN = ("flair", "t1ce")
STATISTICS = {"mean": "mean", "std": "std", "median": "median", "low": "95 % from", "high": "to", "cases": "cases"}
# a click on a heading sorts by its column, another click the other way round; what has no score comes last
SORT = """<script>
for (const button of document.querySelectorAll("table.sortable thead button")) button.onclick = () => {
  const head = button.parentElement, table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  const text = row => row.cells[column].textContent;
  const key = row => text(row) === "" ? NaN : text(row) === "inf" ? Infinity : +text(row).replaceAll(",", "");
  const words = column === 0 || [...body.rows].some(row => text(row) !== "" && isNaN(key(row)));
  const rank = (a, b) => words ? sign * text(a).localeCompare(text(b), undefined, {numeric: true})
    : isNaN(key(a)) ? 1 : isNaN(key(b)) ? -1 : key(a) === key(b) ? 0 : sign * (key(a) - key(b));
  body.append(...[...body.rows].sort(rank));
};
</script>"""


def page(evaluation: Evaluation, references: Path, *, progress: Callable[[int, int], None] | None = None) -> str:
    """Return the page as HTML; `progress` is told (done, of) its pictures.

    Pictures show the images beside the references where there are some, else the masks alone.
    """
    sections = [
        ("Statistics", _statistics(evaluation)),
        ("Cases", _cases(evaluation)),
        ("Worst cases", _pictures(evaluation, references, progress)),
        ("Rules", _rules(evaluation)),
    ]
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections)
    head = f"<p>{len(evaluation.scores)} cases from {escape(str(references))}</p>"
    frame = {"style": STYLE, "command": WRITER, "scripts": "'unsafe-inline'"}
    return PAGE.format(title="Scores", head=head, body=body + SORT, **frame)


def _statistics(evaluation: Evaluation) -> str:
    rows = []
    for name, summary in evaluation.summary.items():
        cells = "".join(f"<td>{_number(getattr(summary, key))}</td>" for key in STATISTICS)
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    present = ", ".join(f"{part.upper()} {count}" for part, count in evaluation.present.items())
    note = f"Intervals are bootstraps over cases. References that have the region at all: {present}."
    return f"{_table(['score', *STATISTICS.values()], rows)}<p><small>{note}</small></p>"


def _cases(evaluation: Evaluation) -> str:
    rows = []
    for case, scores in evaluation.scores.items():
        cells = "".join(f"<td{bar(name, value)}>{_number(value)}</td>" for name, value in scores.items())
        rows.append(f"<tr><th>{escape(case)}</th>{cells}</tr>")
    problems = "".join(
        f'<p class="missing">{escape(case)}: {escape(problem)}</p>' for case, problem in evaluation.problems.items()
    )
    hint = "<p><small>A heading sorts by its column.</small></p>"
    return hint + _table(["case", *evaluation.summary], rows) + problems


def _table(titles: Sequence[str], rows: list[str]) -> str:
    """Return a table whose headings are buttons that sort it; their words break where names are joined."""
    heads = "".join(f"<th><button>{escape(title).replace('_', '_<wbr>')}</button></th>" for title in titles)
    table = f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _number(value: float) -> str:
    return "" if math.isnan(value) else str(value) if isinstance(value, int) or math.isinf(value) else f"{value:.3f}"


def _rules(evaluation: Evaluation) -> str:
    lines = [f"<p>{escape(str(evaluation.rules))}</p>"]
    lines += [f"<p><b>{name}</b>: {escape(explain(name, evaluation.rules))}</p>" for name in evaluation.metrics]
    return "".join(lines)


def _pictures(evaluation: Evaluation, references: Path, progress: Callable[[int, int], None] | None) -> str:
    chosen = evaluation.worst(PICTURES)
    if not chosen:
        return "<p>There is no score by which one case is better than another.</p>"
    cases, shown = _cases_below(references), []
    for done, case in enumerate(chosen, 1):
        value = evaluation.scores[case][f"{evaluation.ranked_by}_mean"]
        shown.append(f"<h3>{escape(case)}: mean {evaluation.ranked_by} {_number(value)}</h3>")
        pair = evaluation.folders.pairs.get(case)
        shown.append(_picture(case, cases.get(case), pair) if pair else "<p>no prediction</p>")
        if progress:
            progress(done, len(chosen))
    return "".join(shown)


def _cases_below(references: Path) -> Mapping[str, Case]:
    try:
        return {case.id: case for case in find_cases(references)}
    except UserError:  # masks alone
        return {}


def _picture(name: str, case: Case | None, pair: tuple[MaskFile, MaskFile]) -> str:
    try:
        guess, truth, affine = read_pair(*pair)
        masks = {"reference": truth.numpy(), "prediction": guess.numpy()}
        modalities = [modality for modality in SHOWN if case and modality in case.images]
        if case and modalities:
            image, affine = case.read(modalities)
            images = dict(zip(modalities, image, strict=True))
        else:
            images = {"both masks": sum((mask > 0).astype("float32") for mask in masks.values())}
    except CaseError as error:
        return f'<p class="missing">{escape(str(error))}</p>'
    file = io.BytesIO()
    dataset = pair[1].dataset.or_wider(pair[0].dataset)
    scan = Scan(name, images, affine, masks["reference"], masks["prediction"], dataset)
    figure = draw(scan, isolate=False)
    figure.savefig(file, format="png", dpi=min(110, dots(figure)))
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="Slices of {escape(name)}, reference and prediction" src="data:image/png;base64,{data}">'
