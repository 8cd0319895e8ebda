"""A cross-validation in W&B: the folds as one group, and a run that sums them up."""

import inspect
import json
from collections.abc import Mapping
from statistics import fmean, pstdev
from typing import Any

from raum_lightning.atomic import write_json
from raum_lightning.loggers import CSVLogger, WandbLogger, finish_wandb
from raum_lightning.runs.study_folder import StudyFolder

SCORE = "val/dice_"
LOGGER = "WandbLogger"


def group_folds(config: Mapping[str, Any], folder: StudyFolder) -> None:
    """Have the folds of a configuration be one group in W&B, whatever it says itself."""
    for logger in loggers_of(config):
        logger["init_args"] |= {"group": group_of(folder), "job_type": "fold"}


def curves(folder: StudyFolder, folds: int) -> dict[int, dict[str, float]]:
    """Return by step the mean Dice of all folds, `dice/<region>`, and its standard deviation, `dice/<region>_sd`.

    Of the steps at which every fold was validated.
    """
    found: list[dict[int, dict[str, float]]] = []
    for fold in range(folds):
        rows = CSVLogger(folder.run(fold).path).rows()
        scores = {
            int(row["step"]): {name: float(value) for name, value in row.items() if name.startswith(SCORE) and value}
            for row in rows
        }
        found.append({step: row for step, row in scores.items() if row})
    common = sorted(set.intersection(*(set(rows) for rows in found)))
    summed: dict[int, dict[str, float]] = {step: {} for step in common}
    for step in common:
        for name in found[0][step]:
            values = [rows[step][name] for rows in found if name in rows[step]]
            shown = f"dice/{name.removeprefix(SCORE)}"
            summed[step] |= {shown: fmean(values), f"{shown}_sd": pstdev(values)}
    return summed


def log_summary(config: Mapping[str, Any], folder: StudyFolder, content: Mapping[str, Any]) -> None:
    """Log mean and spread of the curves, the scores and the pictures as a run of the folds' group.

    Does nothing where the folds have no logger for W&B.
    """
    for spec in loggers_of(config)[:1]:
        # the folds may log with Lightning's own logger, which has other arguments besides
        shared = [key for key in inspect.signature(WandbLogger).parameters if key not in ("id", "name", "save_dir")]
        own = {key: spec["init_args"][key] for key in shared if key in spec["init_args"]}
        own |= {"group": group_of(folder), "job_type": "summary", "log_model": None}
        if not spec["class_path"].startswith(WandbLogger.__module__.partition(".")[0]):
            own["offline"] = own.get("offline") or None  # false there does not mean that a key is demanded
        identity = group_of(folder).replace("/", "-")
        logger: Any = WandbLogger(**own, id=identity, name=group_of(folder), save_dir=folder.path)
        logged = json.loads(folder.summary_steps.read_text()) if folder.summary_steps.exists() else []
        rows = {step: row for step, row in curves(folder, len(content["folds"])).items() if step not in logged}
        for step, row in rows.items():
            logger.log_metrics(row, step)
        if not logger.lost:
            write_json(folder.summary_steps, [*logged, *rows])
        _log_scores(logger, content)
        if not own.get("hash_ids"):  # a picture shows the id
            pictures = content["pictures"]
            for case, path in pictures.items():
                logger.log_image(f"worst/{case}", [str(folder.path / path)])
        finish_wandb(failed=False)


def _log_scores(logger: Any, content: Mapping[str, Any]) -> None:
    states = {"raw": content["summary"], "cleaned": content["cleaned"]["summary"]}
    columns = ["masks", "score", "mean", "std", "median", "low", "high", "cases"]
    rows = [[state, name, *one.values()] for state, summary in states.items() for name, one in summary.items()]
    logger.log_table("scores", columns, rows)
    names = [*next(iter(content["cases"].values()))]
    cells = [
        [logger.shown_id(case), content["fold_of"][case], *(row[name] for name in names)]
        for case, row in content["cases"].items()
    ]
    logger.log_table("cases", ["case", "fold", *names], cells)
    # a command may name a case
    made = {name: said for name, said in content["provenance"].items() if not (logger.hides_ids and name == "command")}
    logger.log_hyperparams({"provenance": made})


def loggers_of(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the loggers for W&B in a configuration, each with class_path and init_args."""
    given = config["trainer"].get("logger")
    found = given if isinstance(given, list) else [given]
    return [one for one in found if isinstance(one, dict) and str(one.get("class_path")).endswith(LOGGER)]


def group_of(folder: StudyFolder) -> str:
    """Return the name of the group that the folds are in W&B."""
    return f"{folder.path.parent.name}/{folder.path.name}"
