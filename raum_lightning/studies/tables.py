"""The tables of a cross-validation as Markdown, from the content of its results.json."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raum_lightning.postprocess import Postprocess

Content = Mapping[str, Any]


def markdown(content: Content) -> str:
    """Return the page."""
    rules = content["rules"]
    states = {"raw": content["summary"], "cleaned": content["cleaned"]["summary"]}
    about = content["provenance"]
    parts = [
        f"# Cross-validation {content['name']}",
        f"{about['cases']} cases, {len(content['folds'])} folds; each case segmented by the fold that has not seen it, "
        f"and scored once, by the rules {rules['name']} (BraTS {rules['years']}, {rules['source']}). Of each fold that "
        "checkpoint was taken that was best on these cases: scores on new cases are lower by what choosing gains."
        + _held_out(about["held_out"]),
    ]
    for state, summary in states.items():
        parts += [f"## All cases, {state}", *([_cleaning(content)] if state == "cleaned" else [])]
        parts += [_summary(content, summary)]
    parts += ["## By fold", _folds(content), "## Worst cases", _worst(content)]
    if content["calibration"]:
        parts += ["## Calibration", _calibration(content["calibration"])]
    parts += ["## How it was made", _provenance(content), "## Scores", _meanings(content)]
    return "\n\n".join(parts) + "\n"


def _held_out(count: int) -> str:
    return f" {count} test cases are held out from every fold and are no part of this table." if count else ""


def _cleaning(content: Content) -> str:
    steps = Postprocess.of(content["postprocess"])
    return (
        f"Post-processing: {steps} (`post.yaml`). It was chosen on the same predictions, each step by leaving one case "
        "out."
    )


def _summary(content: Content, summary: Content) -> str:
    rows = []
    for metric in content["metrics"]:
        digits = 1 if metric.endswith("hd95") else 3
        for part in content["parts"]:
            one = summary[f"{metric}_{part}"]
            interval = f"{number(one['low'], digits)} to {number(one['high'], digits)}"
            figures = [number(one[key], digits) for key in ("mean", "std", "median")]
            rows.append([metric, _region(part), *figures, interval, str(one["cases"])])
    return table(["score", "region", "mean", "sd", "median", "95 % interval", "cases"], rows)


def _folds(content: Content) -> str:
    names = [f"dice_{part}" for part in content["parts"]]
    heads = ["fold", "cases", *(f"Dice {_region(part)}" for part in content["parts"]), "HD95", "Dice cleaned"]
    rows = []
    for fold, one in enumerate(content["folds"]):
        dice = [number(one["raw"][name]["mean"], 3) for name in names]
        more = [number(one["raw"]["hd95_mean"]["mean"], 1), number(one["cleaned"]["dice_mean"]["mean"], 3)]
        spent = [_count(one["steps"]), _count(one["patches"]), _duration(one["seconds"]), _count(one["peak_mb"])]
        rows.append([str(fold), str(one["cases"]), *dice, *more, *spent])
    return table([*heads, "steps", "patches", "time", "peak MB"], rows)


def _worst(content: Content) -> str:
    lines = []
    for case in content["worst"]:
        row = content["cases"][case]
        dice = ", ".join(f"{_region(part)} {number(row[f'dice_{part}'], 3)}" for part in content["parts"])
        lines.append(f"{case} (fold {content['fold_of'][case]}): Dice {dice}")
        if picture := content.get("pictures", {}).get(case):
            lines.append(f"![{case}: reference and prediction]({picture})")
    return "\n\n".join(lines)


def _calibration(found: Content) -> str:
    return (
        f"Expected calibration error over {found['voxels']:,} voxels of brains, the mean of the folds: "
        f"{found['before']:.4f}; with a temperature {found['after']:.4f}, each fold by that of the others. "
        f"Fitted to all folds it is {found['temperature']:.3f}, which the card of `ensemble.safetensors` keeps."
    )


def _provenance(content: Content) -> str:
    about = content["provenance"]
    machine = about["hardware"]
    rows = {
        "command": f"`{about['command']}`",
        "parameters": _count(about["parameters"]),
        "hardware": ", ".join([*machine["gpus"], machine["cpu"], f"{machine['cores']} cores"]),
        "git commit": about["commit"] or "unknown",
        "versions": ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        "data": f"{about['data']}, of names and sizes of all files",
        "splits": about["splits"],
    }
    return table(["", ""], [[name, text] for name, text in rows.items()])


def _meanings(content: Content) -> str:
    return "\n".join(
        [f"- {metric}: {text}" for metric, text in content["metrics"].items()]
        + [
            "- 95 % interval: of the mean, by a bootstrap over cases",
            "- time: of training, all attempts together; peak MB: resident memory of one process",
        ]
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: Any, digits: int) -> str:
    """Return a score as text: empty where there is none; infinite distances are a word already."""
    return "" if value is None else value if isinstance(value, str) else f"{value:.{digits}f}"


def _region(part: str) -> str:
    return part if part == "mean" else part.upper()


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
