"""The dashboard of a cross-validation in W&B: a workspace whose panels are laid out, the Dice of all folds first."""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from raum_lightning.errors import ConfigError, RunError
from raum_lightning.loggers import CSVLogger
from raum_lightning.loggers.wandb_logger import RENAMED
from raum_lightning.runs.study_folder import StudyFolder
from raum_lightning.studies.wandb_summary import SCORE, group_of, loggers_of

STEP = "trainer/global_step"


def lay_out(config: Mapping[str, Any], folder: StudyFolder, folds: int, *, entity: str | None = None) -> Any:
    """Return the workspace, a `wandb_workspaces.workspaces.Workspace`, which nobody has been sent.

    Its runs are those of the cross-validation's group. `entity` is whose project it is; that of the logger or of
    WANDB_ENTITY where not given.

    Raises:
        ConfigError: wandb-workspaces is not installed, the folds have no logger for W&B, or no entity is known.
        RunError: No fold has been validated yet.
    """
    if find_spec("wandb_workspaces") is None:
        raise ConfigError(
            "a dashboard needs wandb-workspaces, which is not installed: pip install 'raum-lightning[workspace]'"
        )
    specs = loggers_of(config)
    if not specs:
        raise ConfigError(f"{folder.config}: trainer.logger has no WandbLogger, so that W&B knows nothing of the folds")
    said = specs[0]["init_args"]
    owner = entity or said.get("entity") or os.environ.get("WANDB_ENTITY")
    if not owner:
        raise ConfigError(f"whose project {said['project']} is, is not known: give --entity, a user or team of W&B")
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.expr import And, Metric

    group = group_of(folder)
    return ws.Workspace(
        entity=owner,
        project=said["project"],
        name=group,
        sections=_sections(_scores(folder), folds),
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=folds + 1),
        runset_settings=ws.RunsetSettings(filters=And(Metric("Group") == group)),
    )


def send(workspace: Any) -> str:
    """Create the workspace on the server and return its address; raise `RunError` where W&B refuses."""
    try:
        url: str = workspace.save().url
    except Exception as error:  # of the client or its HTTP library, which share no base but this
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise RunError(f"W&B does not take the workspace ({reason}); log in with `wandb login`") from error
    return url


def _sections(scores: Sequence[str], folds: int) -> list[Any]:
    from wandb_workspaces.reports.v2.interface import LinePlot
    from wandb_workspaces.workspaces import Section

    def line(title: str, names: Sequence[str], **how: Any) -> Any:
        return LinePlot(title=title, x=STEP, y=list(names), max_runs_to_show=folds + 1, **how)

    dice = [line(f"Dice {_region(name)}, each fold", [name], range_y=(0, 1)) for name in scores]
    means = [f"dice/{name.removeprefix(SCORE)}" for name in scores]
    spread = [f"{name}_sd" for name in means]
    together = [line("mean of the folds", means, range_y=(0, 1)), line("standard deviation", spread)]
    training = [line("loss", ["train/loss", "val/loss"]), line("learning rate", [RENAMED["lr"], "lr"])]
    return [
        Section(name="Dice of all folds", panels=dice, is_open=True, pinned=True),
        Section(name="Mean and spread", panels=together, is_open=True),
        Section(name="Training", panels=training),
    ]


def _scores(folder: StudyFolder) -> list[str]:
    """Return the names under which the first fold has logged its Dice, the mean first."""
    rows = CSVLogger(folder.run(0).path).rows()
    names = dict.fromkeys(name for row in rows for name, value in row.items() if name.startswith(SCORE) and value)
    if not names:
        raise RunError(f"{folder.run(0).path}: has not been validated yet; train the folds first")
    return sorted(names, key=lambda name: name != f"{SCORE}mean")


def _region(name: str) -> str:
    part = name.removeprefix(SCORE)
    return part if part == "mean" else part.upper()
