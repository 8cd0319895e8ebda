"""Names of Lightning, torch and W&B that their documentation does not promise: gone, they fail here at once.

Each stands in the table with the reason for which there is no public way.
"""

import ast
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, Timer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import WandbLogger

from raum_lightning.loggers import WandbLogger as OurWandbLogger

PACKAGE = Path(__file__).parents[1] / "raum_lightning"
FILES = [
    *(PACKAGE / name for name in ("module.py", "cli/trainer.py")),
    *(file for folder in ("loggers", "training") for file in sorted((PACKAGE / folder).rglob("*.py"))),
]
TRAINER = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
LOOP = TRAINER.fit_loop

# name -> (where it must be, why it is touched)
TABLE = {
    "_compiled_call_impl": (torch.nn.Module(), "whether a network is compiled; torch has no question for it"),
    "_step_supports_amp_scaling": (
        torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], fused=True),
        "Lightning refuses to clip gradients with a fused optimiser even where nothing is scaled",
    ),
    "_trainer": (LightningModule(), "None without a trainer, where `trainer` raises"),
    "_update_metrics": (RichProgressBar, "to show a loss less often than at every step, which would wait for it"),
    "_get_train_description": (RichProgressBar, "the bar of a run that counts steps counts epochs otherwise"),
    "_wandb_init": (WandbLogger(offline=True), "to turn a run offline whose server is not reached"),
    "_experiment": (WandbLogger(offline=True), "whether the run has begun, where `experiment` begins it"),
    "_parse_ckpt_path": (LightningCLI, "overridden: the YAML counts more than the checkpoint's hyperparameters"),
    "_instantiate_trainer": (
        LightningCLI,
        "overridden: callbacks and plugins of ours, which no YAML can drop by accident",
    ),
    "_run_subcommand": (LightningCLI, "overridden: the run's lock, and refusals as one sentence"),
    "_prepare_subcommand_kwargs": (LightningCLI, "overridden: the checkpoint to start from"),
    "_parser": (LightningCLI, "the parser of a verb, for its keys and for writing the configuration"),
    "_get": (LightningCLI, "module and data module out of the configuration"),
    "_foreach_lerp_": (torch, "the average of all weights in a few launches, as torch's own averaging takes it"),
    "_last_lr": (
        torch.optim.lr_scheduler.LambdaLR(torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]), lambda step: 1.0),
        "what a scheduler says its rate is, after a run was made longer",
    ),
    "_batches_that_stepped": (LOOP.epoch_loop, "the steps of the logs, where a run goes on after a validation"),
    "_verbose": (Timer(), "the end of the time is said once, not after each batch of a step"),
    # without an underscore, and in no documentation
    "restarted_on_epoch_end": (LOOP, "a checkpoint of an epoch's end is continued with the next epoch"),
    "reset_restart_stage": (LOOP, "as above"),
    "epoch_progress": (LOOP, "as above"),
    "restarting": (LOOP.epoch_loop, "as above"),
    "total_batch_idx": (LOOP.epoch_loop, "the number of a batch, over all epochs"),
    "batch_progress": (LOOP.epoch_loop, "whether the batch is an epoch's last"),
    "log_every_n_steps": (TRAINER, "steps between logs, which the trainer is given and does not declare"),
    "estimated_stepping_batches": (Trainer, "length of the run"),
}


@pytest.mark.parametrize("name", TABLE)
def test_it_is_still_there(name: str) -> None:
    place, reason = TABLE[name]
    assert hasattr(place, name), f"{name} is gone ({reason}); look for another way"


def test_our_logger_is_given_what_it_removes() -> None:
    assert "anonymous" in WandbLogger(offline=True)._wandb_init
    assert "anonymous" not in OurWandbLogger(offline=True)._wandb_init


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_other_is_touched(file: Path) -> None:
    tree = ast.parse(file.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_private(node.attr)]
    own = {function.name for function in functions} | {
        node.attr for node in used if isinstance(node.ctx, ast.Store) and _is_self(node.value)
    }
    assert {node.attr for node in used if not (node.attr in own and _is_self(node.value))} <= TABLE.keys()


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"
