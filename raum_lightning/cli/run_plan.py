"""Which run a verb is about: its folder, its checkpoint and its precision, decided before anything is made or written.

`make_plan` is a function of configuration, environment and disk, and changes none of them; `apply_plan` tells the
configuration.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Timer

from raum_lightning.cli.derived import METRICS, RUN_FOLDER
from raum_lightning.errors import ConfigError, RunError
from raum_lightning.inference.exported import ONNX, PROGRAM, SAFETENSORS
from raum_lightning.inference.hub import local
from raum_lightning.runs.checkpoints import epochs_trained, newest_sound, seconds_trained, structure
from raum_lightning.runs.folder import RunFolder, find_checkpoint
from raum_lightning.runs.naming import check_names, given_id, restarted, restarts

# folder of files that say where an experiment runs, not which it is
OF_MACHINES = "hardware"
# what W&B takes in no id
NOT_IN_WANDB = re.compile(r"[:;,#?/'\\]")


@dataclass(frozen=True)
class Plan:
    """What a verb is going to do.

    Args:
        experiment: The folder of all runs of the experiment.
        run: The folder of this run; None for a new one, named when it is made.
        start: The checkpoint to start from, if any.
        precision: `trainer.precision`, as this machine can have it.
        said: What the user is told.
    """

    experiment: Path
    run: RunFolder | None
    start: Path | None
    precision: Any
    said: tuple[str, ...] = ()


def make_plan(verb: str, config: Any, files: Sequence[Path], *, root_is_given: bool = False) -> Plan:
    """Return the plan of a verb.

    Args:
        verb: fit, validate, test or predict.
        config: The verb's configuration: `run`, `ckpt_path` and `trainer` are looked at.
        files: The YAML files that were given; the last one names the experiment, of those that
            are not of a machine (experiments/hardware).
        root_is_given: Whether `run.root` is typed or stands in a file, so that nothing is written to the run of a
            foreign checkpoint.

    Raises:
        RunError: The run or the checkpoint is not there, has been trained already, or has no step left.
        ConfigError: `trainer.overfit_batches` is given, or `out` for fit.
    """
    if verb == "fit" and config.out:
        raise ConfigError("--out is for validate, test and predict; fit writes to --run.root/experiment/id")
    if config.trainer.overfit_batches:
        raise ConfigError(
            f"trainer.overfit_batches={config.trainer.overfit_batches}: each epoch samples new patches, so "
            "no batch is repeated; give --data.patches_per_epoch with few patches and no augmentation, "
            "or data.splits with a few training cases"
        )
    check_names(config.run.experiment, config.run.id)
    experiment = Path(config.run.root) / (config.run.experiment or experiment_of(files))
    named = RunFolder(experiment / str(config.run.id)) if config.run.id else None
    precision, said = _precision(config.trainer.precision, config.trainer.accelerator)
    plan = Plan(experiment, named, None, precision, said)
    beside = next((run for file in reversed(files) if (run := RunFolder.of_file(file))), None)
    if verb == "fit":
        plan = _plan_fit(plan, config, None if root_is_given else beside)
    else:
        plan = _plan_trained(plan, config.ckpt_path, beside, root_is_given=root_is_given)
    if plan.start and not plan.start.is_file():
        hint = "a file, or auto to resume this run" if verb == "fit" else "a file, best or last"
        raise RunError(f"{plan.start}: no such checkpoint; --ckpt_path names {hint}")
    if plan.start and plan.start.suffix in (ONNX, PROGRAM):
        raise RunError(f"{plan.start}: is an exported program, not a checkpoint; use `raum segment --model`")
    return plan


def experiment_of(files: Sequence[Path]) -> str:
    """Return the name of the experiment that files describe: that of the last, but one of a machine, without ending."""
    naming = [file.stem for file in files if file.parent.name != OF_MACHINES] or [file.stem for file in files]
    return naming[-1] if naming else "unnamed"


def _plan_fit(plan: Plan, config: Any, beside: RunFolder | None) -> Plan:
    """Return where to train and what to start from: a file, "auto" (what this run has saved, if it has) or nothing.

    The run of `beside`, whose own configuration was given, is this one where it has its names: it may have moved.
    """
    wanted = "auto" if config.ckpt_path is None and restarts() else config.ckpt_path
    given = local(wanted) if wanted not in (None, "auto") else None
    run = plan.run or (RunFolder.of_file(given) if given else None)
    if run is None and (chosen := given_id()):
        run = RunFolder(plan.experiment / chosen)
    moved = beside and run and not run.saved and (run.experiment, run.id) == (beside.experiment, beside.id)
    if config.ckpt_path == "auto" and moved:
        run = beside
    if run and wanted is None and run.saved:
        raise RunError(f"{run.path} holds a trained run; continue it with --ckpt_path auto or give another --run.id")
    own = newest_sound(run) if run and (wanted == "auto" or restarted()) else None
    if given and not own:
        _check_end(given, config.trainer)
    return replace(plan, run=run, start=own or given)


def _plan_trained(plan: Plan, wanted: str | None, beside: RunFolder | None, *, root_is_given: bool) -> Plan:
    """Return what to score or predict with, and where; `beside` is the run whose own configuration was given."""
    if wanted in (None, "auto", "best", "last"):
        named = plan.run or beside
        start = find_checkpoint(plan.experiment, None if wanted == "auto" else wanted, named.path if named else None)
    else:
        start = local(str(wanted))
    plan = replace(plan, said=(*plan.said, f"checkpoint: {start}"))
    its = RunFolder.of_file(start)
    if its and root_is_given and its.path.resolve().parents[1] != plan.experiment.parent.resolve():
        its = None
    return replace(plan, start=start, run=plan.run or its or RunFolder(plan.experiment / start.stem))


def _check_end(checkpoint: Path, trainer: Any) -> None:
    """Refuse a run that would end before its first step, or that cannot resume from such a file."""
    if checkpoint.suffix in (SAFETENSORS, ONNX, PROGRAM):
        raise RunError(f"{checkpoint}: holds no state of a training; --module.init_from takes weights of a safetensors")
    content = structure(checkpoint) if checkpoint.is_file() else {}
    steps, limit = content.get("global_step", 0), Timer(trainer.max_time).time_remaining()
    if not isinstance(steps, int):
        raise RunError(
            f"{checkpoint}: does not say at which step it was saved (global_step); give a checkpoint of `raum fit`"
        )
    by_time = trainer.max_steps == -1 and trainer.max_epochs in (None, -1)
    epochs, seconds = epochs_trained(content), seconds_trained(content)
    ends = [
        (f"at step {steps}", "max_steps", trainer.max_steps, steps, f"above {steps}, steps"),
        (f"after {epochs} epochs", "max_epochs", trainer.max_epochs or -1, epochs, f"above {epochs}, epochs"),
        (f"after {seconds:.0f} s", "max_time", limit if by_time and limit else -1, seconds, "that is longer, time"),
    ]
    for saved, key, end, done, more in ends:
        if 0 < end <= done:
            raise RunError(
                f"{checkpoint} was saved {saved} and trainer.{key} is {end:.0f}{' s' * (key == 'max_time')}: nothing "
                f"is left to train; give --trainer.{key} {more} of both together, or begin from its weights alone with "
                f"--module.init_from {checkpoint}"
            )


def _precision(precision: Any, accelerator: str) -> tuple[Any, tuple[str, ...]]:
    if precision == "bf16-mixed" and (device := lacks_bf16(accelerator)):
        return "32-true", (f"precision: this {device} has no bf16, using 32-true instead",)
    return precision, ()


def lacks_bf16(accelerator: str) -> str | None:
    """Return GPU or CPU, whichever the run takes, where it has no bf16: emulated, that is slower than float32."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return None if torch.cuda.is_bf16_supported(including_emulation=False) else "GPU"
    # torch 2.10 cannot say what a CPU has; of others than x86 nothing is known
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    x86 = accelerator in ("auto", "cpu") and has.get("architecture") == "x86_64"
    return "CPU" if x86 and not (has.get("avx512_bf16") or has.get("amx_bf16")) else None


def apply_plan(plan: Plan, config: Any, run: RunFolder, verb: str) -> None:
    """Tell the configuration the run's name, folder and precision, and its loggers where to write."""
    config.run.experiment, config.run.id = run.experiment, run.id
    config.trainer.precision = plan.precision
    config.trainer.default_root_dir = str(config.out or run.path)
    if getattr(config.trainer.strategy, "class_path", "").endswith(".ModelParallelStrategy"):
        # one file, as with all other strategies, not one for each rank
        config.trainer.strategy.init_args.save_distributed_checkpoint = False
    if config.trainer.logger is not False:
        config.trainer.logger = _with_metrics(as_list(config.trainer.logger))
    for logger in as_list(config.trainer.logger):
        name, init = logger.class_path.rsplit(".", 1)[-1], logger.get("init_args", {})
        if str(init.get("save_dir")) == RUN_FOLDER:
            init.save_dir = str(config.out or (run.of(verb) if name == "CSVLogger" else run).path)
        _name(name, init, run)


def _with_metrics(loggers: list[Any]) -> list[Any]:
    """Add the logger of metrics.csv, which reports read, where it is not among them."""
    if any(logger.class_path == METRICS for logger in loggers):
        return loggers
    added: Any = Namespace({"class_path": METRICS, "init_args": Namespace({"save_dir": RUN_FOLDER})})  # type: ignore[no-untyped-call]
    return [*loggers, added]


def _name(name: str, init: Any, run: RunFolder) -> None:
    """Give W&B's logger the run's name, and let MLflow's write into a folder."""
    if name == "MLFlowLogger":
        # MLflow 3 refuses to, unless it is told that files are meant
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    if name == "WandbLogger":
        experiment, number = run.experiment, run.id
        init.group = init.group or experiment
        init.name = init.name or f"{experiment}/{number}"
        # a sweep's agent has chosen the id
        init.id = init.id or os.environ.get("WANDB_RUN_ID") or NOT_IN_WANDB.sub("-", f"{experiment}-{number}")
        if "resume" in init:  # of Lightning's own, whose null would replace an online run of this id
            init.resume = init.resume or "allow"


def without_run(config: Any) -> Any:
    """Return the configuration without what names this run, so that `fit` trains it again as another."""
    plain = config.clone()
    # the whole configuration, not the text that it was read from
    plain.config = plain.run.id = plain.ckpt_path = plain.out = None
    for logger in as_list(plain.trainer.logger):
        if "id" in logger.init_args:
            logger.init_args.id = None
    return plain


def as_list(value: Any) -> list[Any]:
    """Return one or several loggers or callbacks as a list; none for null, true and false."""
    if value in (None, True, False):
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
