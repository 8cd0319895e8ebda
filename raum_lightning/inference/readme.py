"""What a person must know of a shared network, as Markdown: inside the safetensors file and beside it.

Its first lines are the front matter that the Hugging Face hub reads.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raum_lightning.atomic import write_text
from raum_lightning.errors import ExportError
from raum_lightning.inference.card import ModelCard
from raum_lightning.postprocess import Postprocess

# key of the text in the metadata of safetensors, and what marks a file that may be replaced
README = "readme"
WRITER = "raum export"


def readme(card: ModelCard, networks: int = 1) -> str:
    """Return the text for the network of a card, or for an ensemble of several."""
    channels = "regions" if card.mode == "regions" else "classes"
    what = "One network" if networks == 1 else f"An ensemble of {networks} networks, whose probabilities are averaged,"
    named = {"license": card.license.lower()} if card.license else {}
    front = {**named, "library_name": "raum-lightning", "pipeline_tag": "image-segmentation"}
    parts = [
        "\n".join(["---", *(f"{key}: {value}" for key, value in front.items()), "---"]),
        f"<!-- written by `{WRITER}` -->",
        f"# Tumour segmentation in MRI: {_joined(card.modalities)} to {_joined(card.regions)}",
        f"{what} trained on {_cell(card.dataset)}; the output channels are {channels}.",
        "**This is no medical device.** It is made for research, has been approved for no use on patients, and its "
        "masks may be wrong without any sign of it: a person who can judge them has to look at each.",
        "## Use\n\n```sh\nraum segment --checkpoint FILE.safetensors --case FOLDER --out mask.nii.gz\n```",
        "## What it takes and what it gives\n\n" + _table(["", ""], _facts(card)),
        "## Data and splits\n\n" + _data(card),
        "## Scores\n\n" + (_evaluated(card, networks) if card.evaluation else _validated(card, networks)),
        "## Licence\n\n" + _licence(card),
        "## Versions\n\n" + (_joined(f"{name} {number}" for name, number in card.versions.items()) or "not known"),
    ]
    return "\n\n".join(parts) + "\n"


def save_readme(path: Path, text: str) -> Path:
    """Write the text beside the file `path`, under its name with the ending .md, and return where."""
    beside = beside_of(path)
    write_text(beside, text)
    return beside


def beside_of(path: Path) -> Path:
    """Return where the text of a file is written beside it."""
    return path.with_suffix(".md")


def evaluation_of(content: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return what a card says of the scores in the JSON of `raum evaluate` or `raum cross-validate`.

    Of a cross-validation "scores" are those of the raw masks and "cleaned" those after its "postprocess". Raises
    `ExportError` naming `source` for other content.
    """

    def kept(summary: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: {key: one[key] for key in ("mean", "low", "high", "cases")}
            for name, one in summary.items()
            if any(name.startswith(f"{metric}_") for metric in content["metrics"])  # volumes stand beside scores
        }

    try:
        about = content.get("provenance") or {}
        made: dict[str, Any] = {"rules": str(content["rules"]["name"]), "scores": kept(content["summary"])}
        if folds := content.get("folds"):
            made |= {"folds": len(folds), "data": str(about["data"]), "splits": str(about["splits"])}
            made |= {"cleaned": kept(content["cleaned"]["summary"]), "postprocess": dict(content["postprocess"])}
        return made
    except (AttributeError, LookupError, TypeError):
        raise ExportError(f"{source}: is not a result; give the JSON of raum evaluate or cross-validate") from None


def _facts(card: ModelCard) -> list[tuple[str, str]]:
    labels = (f"{value} {name}" for value, name in zip(card.label_values, card.classes, strict=True))
    regions = (f"{name} = {' + '.join(members)}" for name, members in card.regions.items())
    axes = f"{card.orientation}, {_times(card.spacing)} mm; other files are resampled and back"
    tta = f"{card.flips} mirrored copies" if card.flips > 1 else "none"
    return [
        ("modalities", ", ".join(card.modalities)),
        ("may be missing", ", ".join(card.may_lack) or "none of them"),
        ("in its place", ", ".join(f"{other} for {name}" for name, other in card.fill_absent.items()) or "0"),
        ("frame", axes),
        ("window", f"{_times(card.roi_size)} voxels, overlap {card.overlap:g}"),
        ("labels", ", ".join(labels)),
        ("regions", ", ".join(regions)),
        ("test-time augmentation", tta),
        ("post-processing", str(Postprocess.of(card.postprocess or {})) if card.postprocess else "none"),
        ("temperature of probabilities", f"{card.temperature:.3g}"),
    ]


def _data(card: ModelCard) -> str:
    lines = [
        f"- data set: {_cell(card.dataset)}",
        f"- fingerprint of the training cases: `{_cell(card.training_cases or 'unknown')}`",
    ]
    if folds := card.evaluation.get("folds"):
        lines.append(
            f"- {_cell(folds)} folds, a network each; fingerprints: of names and sizes of all files "
            f"`{_cell(card.evaluation.get('data', ''))}`, of the folds `{_cell(card.evaluation.get('splits', ''))}`"
        )
    else:
        lines.append("- which cases trained, validated and tested it stands in the `splits.json` of its run")
    return "\n".join(lines)


def _evaluated(card: ModelCard, networks: int) -> str:
    from raum_lightning.metrics.measures import part_name  # whose package segmenting does not need

    found, rows = card.evaluation, []
    chosen = Postprocess.of(found.get("postprocess", {}))
    # older cards have those of cleaned masks alone
    cleans = "cleaned" not in found or chosen == Postprocess.of(card.postprocess or {})
    scores = found.get("cleaned" if cleans and "cleaned" in found else "scores", {})
    for name, one in scores.items():
        metric, part = part_name(str(name))
        digits = 1 if metric.endswith("hd95") else 3
        mean, low, high = (_number(one.get(key), digits) for key in ("mean", "low", "high"))
        rows.append((metric, part, mean, f"{low} to {high}", str(one.get("cases", ""))))
    source = "Scores of its masks of cases with references, by `raum evaluate`"
    if folds := found.get("folds"):
        masks = "masks after the post-processing, which was chosen on them" if cleans else "masks as they are"
        scored = "The average of all networks was not scored" if networks > 1 else "This is one of these networks"
        source = (
            f"{_cell(folds)}-fold cross-validation: each case by the one network that was not trained on it, with the "
            f"checkpoint that was best on the cases of its fold, {masks}. {scored}"
        )
    rules = _cell(found.get("rules", ""))
    note = f"{source}; rules {rules}. Intervals of 95 % are of the mean, by a bootstrap over cases."
    return _table(["score", "region", "mean", "95 % interval", "cases"], rows) + f"\n\n{note}"


def _validated(card: ModelCard, networks: int) -> str:
    if not card.scores:
        return "None are known."
    means = "" if networks == 1 else f" Means of the {networks} networks."
    rows = [(name, f"{value:.3f}") for name, value in card.scores.items()]
    return (
        _table(["score", "mean"], rows)
        + "\n\nOf the validation cases by which the checkpoint was chosen: they say little of new cases, and have no "
        f"intervals.{means}"
    )


def _licence(card: ModelCard) -> str:
    own = card.license or "Not stated: ask whoever gave you the file before you use or share it"
    return f"{own}. The terms of {_cell(card.dataset)} hold for what was trained on it, too."


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([_cell(one) for one in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: Any) -> str:
    """Return what may have come with a stranger's file as one cell."""
    shown = "".join(letter for letter in str(text) if letter.isprintable())
    return shown.replace("|", "\\|").replace("<", "&lt;")


def _joined(words: Iterable[str]) -> str:
    return _cell(", ".join(words))


def _number(value: Any, digits: int) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.{digits}f}"


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)
