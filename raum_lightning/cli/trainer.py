"""The verbs `fit`, `validate`, `test` and `predict`: LightningCLI with folders, loggers and callbacks decided."""

import os
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.callbacks import ProgressBar as LightningBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info

from raum_lightning.atomic import write_text
from raum_lightning.cli.command_line import CommandLine, read_command_line
from raum_lightning.cli.errors import refusals
from raum_lightning.cli.key_errors import explain_configuration
from raum_lightning.cli.log_filters import quieten
from raum_lightning.data.datamodule import BratsDataModule
from raum_lightning.errors import ConfigError, RunError
from raum_lightning.inference.trusted import INSTANTIATOR
from raum_lightning.loggers import finish_wandb
from raum_lightning.module import SegmentationModule
from raum_lightning.runs.checkpoints import newest_sound, structure
from raum_lightning.runs.folder import RunFolder, find_checkpoint
from raum_lightning.runs.lock import locked
from raum_lightning.runs.naming import RunOptions, new_id, restarted, restarts
from raum_lightning.runs.resume_checks import check_agreement, flat
from raum_lightning.training.callbacks.attributes import data_of
from raum_lightning.training.callbacks.best import BestCheckpoint
from raum_lightning.training.callbacks.checkpoint import Continuation, Provenance, TrainedCases
from raum_lightning.training.callbacks.failures import FiniteLoss, SameEverywhere
from raum_lightning.training.callbacks.predictions import PredictionWriter
from raum_lightning.training.callbacks.preemption import LastCheckpoint, LeaveOnSignal, leaving_on_signal
from raum_lightning.training.callbacks.progress import ProgressBar, RunSummary
from raum_lightning.training.callbacks.rng import RandomState
from raum_lightning.training.callbacks.tables import CaseTable
from raum_lightning.training.callbacks.throughput import Throughput
from raum_lightning.training.checkpoint_io import VerifiedCheckpointIO
from raum_lightning.training.schedule import check_length

TRAINER_DEFAULTS = {
    "logger": {"class_path": "raum_lightning.loggers.CSVLogger"},
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    # `no_grad` instead: in inference mode autocast casts the weights again for each window
    "inference_mode": False,
    # `RunSummary` says what matters of it
    "enable_model_summary": False,
}


CKPT_PATH = (
    "a file; for fit also auto: resume this run from what it has saved, if it has; for the other verbs also best or "
    "last of the experiment's newest run, or of --run.id (default: best)"
)


def run_trainer(args: Sequence[str]) -> int:
    """Run one verb; return the exit code."""
    quieten()
    # a mistyped key is an error, not an abbreviation, and is explained by us
    exact = {"allow_abbrev": False, "exit_on_error": False}
    failed = True
    try:
        with leaving_on_signal():
            RaumCLI(
                SegmentationModule,
                BratsDataModule,
                save_config_callback=SaveConfig,
                seed_everything_default=0,
                trainer_defaults=TRAINER_DEFAULTS,
                parser_kwargs=exact | dict.fromkeys(RaumCLI.subcommands(), exact),
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                args=list(args),
            )
        failed = False
    finally:
        finish_wandb(failed=failed)
    return 0


class RaumCLI(LightningCLI):
    """LightningCLI whose network and loss stand under `module`, with one folder per run."""

    given: CommandLine
    run_dir: Path
    start: Path | None
    """The checkpoint to go on from."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the verbs and the arguments of the trainer's methods that are no options, or options of our own."""
        return {verb: skipped | {"ckpt_path"} for verb, skipped in LightningCLI.subcommands().items()}

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our groups before the trainer's, with `module` for the parent's `model`."""
        parser.add_lightning_class_args(SegmentationModule, "module")
        parser.add_lightning_class_args(BratsDataModule, "data")
        parser.add_class_arguments(RunOptions, "run")
        parser.add_argument("--ckpt_path", type=str | None, default=None, help=CKPT_PATH)
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{key}": value for key, value in self.trainer_defaults.items()})

    def _parse_ckpt_path(self) -> None:
        """The YAML and the command line decide; the parent lets the checkpoint's hyperparameters override them."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the verb and its words; the files among them are merged before the parser sees them."""
        verb, *words = args
        self.given = read_command_line(words)
        text = yaml.safe_dump(self.given.files.tree, sort_keys=False)
        try:
            self.config = parser.parse_args([verb, f"--config={text}", *self.given.words])
        except ArgumentError as error:
            raise ConfigError(explain_configuration(self._parser(verb), self.given, str(error))) from error

    def before_instantiate_classes(self) -> None:
        """Decides the run's folder and the checkpoint, and tells them to trainer and loggers."""
        config = self.config[self.subcommand]
        files = self.given.files.files
        experiment = config.run.experiment or (files[-1].stem if files else "unnamed")
        folder = Path(config.run.root) / experiment
        if self.subcommand == "fit":
            self._find_run(config, folder)
        else:
            run = RunFolder.of_file(files[-1]) if files else None
            self._find_trained(config, folder, run.path if run else None)
        if self.start and not self.start.is_file():
            raise RunError(f"{self.start}: no such checkpoint; --ckpt_path names a file")
        if config.trainer.overfit_batches:
            raise ConfigError(
                f"trainer.overfit_batches={config.trainer.overfit_batches}: patches are cut anew in each epoch, so "
                "there are no batches to repeat; give --data.patches_per_epoch with few patches and no augmentation, "
                "or data.splits with a few training cases"
            )
        config.config = None  # what is saved and logged is the whole configuration, not the text that it came from
        config.run.experiment = self.run_dir.parent.name
        if config.trainer.precision == "bf16-mixed" and lacks_bf16(config.trainer.accelerator):
            rank_zero_info("precision: this GPU has no bf16, 32-true takes its place")
            config.trainer.precision = "32-true"
        self.save_config_kwargs = {"text": self._anew(config)}
        config.run.id = self.run_dir.name
        config.trainer.default_root_dir = str(self.run_dir)
        for logger in _as_list(config.trainer.logger):
            self._place(logger)

    def _find_run(self, config: Any, folder: Path) -> None:
        """Where to train and what to go on from: a file, "auto" (what this run has saved, if it has) or nothing."""
        if config.ckpt_path is None and restarts():
            config.ckpt_path = "auto"
        given = Path(config.ckpt_path) if config.ckpt_path not in (None, "auto") else None
        self.run_dir = self._run_dir(config, folder, given) or folder / new_id(folder)
        own = newest_sound(self.run) if config.ckpt_path == "auto" or restarted() else None
        self.start = own or given
        if self.start and self.start == given:
            _check_end(self.start, config.trainer.max_steps)
        if config.ckpt_path is None and self.run.saved:
            raise RunError(
                f"{self.run_dir} holds a trained run; continue it with --ckpt_path auto or give another --run.id"
            )

    def _find_trained(self, config: Any, folder: Path, run: Path | None) -> None:
        """What to score or predict with, and where; `run` is the one whose own configuration was given, if it was."""
        if config.ckpt_path in (None, "best", "last"):
            named = folder / config.run.id if config.run.id else run
            config.ckpt_path = str(find_checkpoint(folder, config.ckpt_path, named))
            rank_zero_info(f"checkpoint: {config.ckpt_path}")
        self.start = Path(config.ckpt_path)
        self.run_dir = self._run_dir(config, folder, self.start) or folder / self.start.stem

    def _run_dir(self, config: Any, folder: Path, checkpoint: Path | None) -> Path | None:
        """The run that is named, or else the one that a checkpoint lies in."""
        if config.run.id:
            return folder / str(config.run.id)
        run = RunFolder.of_file(checkpoint) if checkpoint else None
        return run.path if run else None

    def _anew(self, config: Any) -> str:
        """The configuration without what names this run, so that given to `fit` it is trained again as another."""
        plain = config.clone()
        plain.run.id = plain.ckpt_path = None
        for logger in _as_list(plain.trainer.logger):
            if "id" in logger.init_args:
                logger.init_args.id = None
        text: str = self._parser(self.subcommand).dump(plain, skip_unset=False)
        return text

    def _place(self, logger: Any) -> None:
        name, init = logger.class_path.rsplit(".", 1)[-1], logger.init_args
        if name == "CSVLogger":
            init.save_dir = str(self.run.of(str(self.subcommand)).path)
        elif name == "WandbLogger":
            init.save_dir = str(self.run_dir)
            init.group = init.group or self.run_dir.parent.name
            init.name = init.name or f"{self.run_dir.parent.name}/{self.run_dir.name}"
            # a sweep's agent has chosen the id
            init.id = init.id or os.environ.get("WANDB_RUN_ID") or f"{self.run_dir.parent.name}-{self.run_dir.name}"

    @property
    def run(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.run_dir)

    def instantiate_classes(self) -> None:
        """Instantiate and check that network and data fit, before any case is prepared."""
        with self._no_empty_folder():
            self._instantiate()

    def _instantiate(self) -> None:
        try:
            with refusals("configuration", {}):
                self.config_init = self.parser.instantiate(self.config)
        except ConfigError as error:
            if error.__cause__ is None:  # a sentence of our own
                raise
            explained = explain_configuration(self._parser(self.subcommand), self.given, str(error))
            raise ConfigError(explained) from error
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "module")
        self.model.check_data(self.datamodule, fitting=self.subcommand == "fit")
        # class paths and arguments, from which Lightning's `load_from_checkpoint` makes the module again
        self.text = self._parser(self.subcommand).dump(self.config[self.subcommand], skip_unset=False)
        self.settings = yaml.safe_load(self.text)
        if self.subcommand == "fit":
            check_length(self.settings["trainer"], self.model.warmup_steps)
        if self.start:
            own = self.start.resolve().parent == self.run.checkpoints.resolve()
            check_agreement(self.start, self.settings, continues=own and self.subcommand == "fit")
        self.model.save_hyperparameters(self.settings["module"] | {"_instantiator": INSTANTIATOR}, logger=False)
        self.trainer = self.instantiate_trainer()

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        saves = config.get("enable_checkpointing") is not False
        # for the other verbs too: they restore its state with the checkpoint
        best = self._best(self.settings["run"]["keep"]) if saves else None
        own_bar = any(isinstance(callback, LightningBar) for callback in _as_list(config.get("callbacks")))
        shows = not own_bar and config.get("enable_progress_bar") is not False
        ours: list[Callback] = [
            # before the table, which it would else write over
            *([ProgressBar()] if shows else []),
            RunSummary(self.run_dir, best),
            CaseTable(self.run.of(str(self.subcommand)).cases),
            TrainedCases(),
            PredictionWriter(self.run.predictions),
            RandomState(),
            *([LeaveOnSignal()] if self.subcommand != "fit" else []),
            *([best] if best else []),
        ]
        if self.subcommand == "fit":
            ours.append(SameEverywhere(flat(self.settings) | {"checkpoint": self.start}))
            ours += [FiniteLoss(self.run), Provenance(self.text), Continuation()]
            if saves:
                ours.append(LastCheckpoint(self.run))
            if config.get("logger"):
                ours += [LearningRateMonitor("step"), Throughput()]
        config["plugins"] = [*_as_list(config.get("plugins")), VerifiedCheckpointIO()]
        with refusals("trainer", config):
            return super()._instantiate_trainer(config, [*ours, *callbacks])

    def _best(self, keep: int) -> BestCheckpoint:
        return BestCheckpoint(self.run, f"val/{self.model.monitor}", lower=self.model.lower_is_better, keep=keep)

    def _run_subcommand(self, subcommand: str) -> None:
        given = self.settings["trainer"]
        # the other ranks have no lock of their own
        alone = locked(self.run) if subcommand == "fit" and self.trainer.is_global_zero else nullcontext()
        with self._no_empty_folder(), alone, refusals("trainer", given, (ValueError, TypeError)):
            super()._run_subcommand(subcommand)

    @contextmanager
    def _no_empty_folder(self) -> Iterator[None]:
        """Remove the folder that was made for this run where a refused start leaves it empty."""
        try:
            yield
        except BaseException:
            with suppress(OSError):
                for folder in (self.run_dir, self.run_dir.parent, self.run_dir.parent.parent):
                    folder.rmdir()
            raise

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand) | {"ckpt_path": self.start}
        if subcommand in ("validate", "test"):
            kwargs["verbose"] = False  # `CaseTable` prints the scores
        if subcommand == "predict":
            kwargs["return_predictions"] = False  # they are written as they come
        return kwargs


def _check_end(checkpoint: Path, max_steps: int) -> None:
    """Refuse a run that would end before its first step."""
    done = structure(checkpoint).get("global_step", 0) if checkpoint.is_file() else 0
    if 0 < max_steps <= done:
        raise RunError(
            f"{checkpoint} was saved at step {done} and trainer.max_steps is {max_steps}: nothing is left to train; "
            f"give --trainer.max_steps above {done}, steps of both together"
        )


def lacks_bf16(accelerator: str) -> bool:
    """Whether the run takes a GPU on which bf16 is emulated or absent."""
    takes_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return takes_gpu and not torch.cuda.is_bf16_supported(including_emulation=False)


class SaveConfig(SaveConfigCallback):
    """Writes the run's `config.yaml` and `splits.json` when it trains, and tells the loggers the configuration."""

    def __init__(self, parser: LightningArgumentParser, config: Any, *, text: str, **kwargs: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False, **kwargs)
        self.text = text

    def save_config(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """On rank 0, once."""
        if stage != "fit":
            return
        run = RunFolder(Path(trainer.default_root_dir))
        write_text(run.config, self.text)
        data_of(trainer).split.save(run.splits)
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(self.text))


def _as_list(value: Any) -> list[Any]:
    if value in (None, True, False):
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
