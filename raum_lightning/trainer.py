"""The verbs `fit`, `validate`, `test` and `predict`: LightningCLI with folders, loggers and callbacks decided."""

import logging
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info

from raum_lightning.bases import with_bases
from raum_lightning.callbacks.checkpoint import Continuation, Provenance
from raum_lightning.callbacks.failures import FiniteLoss, SameEverywhere, TrainingError, explain, located
from raum_lightning.callbacks.predictions import PredictionWriter
from raum_lightning.callbacks.preemption import SaveOnLeaving
from raum_lightning.callbacks.progress import ProgressBar, RunSummary
from raum_lightning.callbacks.rng import RandomState
from raum_lightning.callbacks.tables import CaseTable
from raum_lightning.callbacks.throughput import Throughput
from raum_lightning.checkpoints import LAST, VerifiedCheckpointIO, newest_sound
from raum_lightning.data.datamodule import BratsDataModule
from raum_lightning.loggers import finish_wandb
from raum_lightning.module import SegmentationModule
from raum_lightning.run import CHECKPOINTS, RunError, RunOptions, find_checkpoint, new_id, restarted, restarts, run_of

WARNINGS = (
    # volumes are read from a memory map in milliseconds; the training loader has the workers it was given
    r"The '(val|test|predict|train)_dataloader' does not have many workers",
    # short runs are meant to be short
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    # a run too short to be validated has no best checkpoint; `RunSummary` says so
    r"`ModelCheckpoint\(monitor='val/dice_mean'\)` could not find the monitored key",
    # a run that goes on writes where it wrote before
    r"Checkpoint directory .* exists and is not empty",
    # every case is segmented already; `PredictionWriter` says so
    r"Total length of `DataLoader` across ranks is zero",
    # of Lightning itself: https://github.com/Lightning-AI/pytorch-lightning/issues/21340
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)
# advertisements of other products, devices that are not used, and what `RunSummary` says of the ranks
UNSAID = re.compile(r".*Tip:|(GPU|TPU|HPU) available: |-{20}", re.DOTALL)
# what they say, every rank would say
TALKATIVE = ("fabric.utilities.seed", "fabric.utilities.distributed", "pytorch.trainer.connectors.signal_connector")
INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"
TRAINER_DEFAULTS = {
    "logger": {"class_path": "raum_lightning.loggers.CSVLogger"},
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    # `RunSummary` says what matters of it
    "enable_model_summary": False,
}


def run_trainer(args: Sequence[str]) -> int:
    """Runs one verb; returns the exit code."""
    for pattern in WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    if "SLURM_JOB_ID" not in os.environ:  # a login node, or a workstation with SLURM's tools
        warnings.filterwarnings("ignore", "The `srun` command is available on your system but is not used")
    for name in ("pytorch", "fabric"):
        log = logging.getLogger(f"lightning.{name}.utilities.rank_zero")
        log.addFilter(lambda record: not UNSAID.match(record.msg))
    for name in TALKATIVE:
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    exact = {"allow_abbrev": False}  # a mistyped key is an error, not an abbreviation
    try:
        RaumCLI(
            SegmentationModule,
            BratsDataModule,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs=exact | dict.fromkeys(RaumCLI.subcommands(), exact),
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=with_bases(args),
        )
    except ValueError as error:
        if (text := located(str(error))) != str(error):
            error.args = (text,)
        raise
    except Exception as error:
        if sentence := explain(error):
            raise TrainingError(located(sentence)) from error
        raise
    finally:
        finish_wandb()
    return 0


class RaumCLI(LightningCLI):
    """LightningCLI whose network and loss stand under `module`, with one folder per run."""

    run_dir: Path
    start: Path | None
    """The checkpoint to go on from."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The keys `run` and `base`."""
        parser.add_class_arguments(RunOptions, "run")
        parser.add_argument("--base", type=str, default=None, help="configuration that this one adds to, beside it")

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """As the parent's, with `module` for `model`."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{key}": value for key, value in self.trainer_defaults.items()})
        parser.add_lightning_class_args(SegmentationModule, "module")
        parser.add_lightning_class_args(BratsDataModule, "data")

    def _parse_ckpt_path(self) -> None:
        """The YAML and the command line decide; the parent lets the checkpoint's hyperparameters override them."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """As the parent's, which warns of arguments that are not the command line's."""
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Decides the run's folder and the checkpoint, and tells them to trainer and loggers."""
        config = self.config[self.subcommand]
        files = [Path(str(file)) for file in config.get("config") or []]
        experiment = config.run.experiment or (files[-1].stem if files else "unnamed")
        folder = Path(config.run.root) / experiment
        if self.subcommand == "fit":
            self._find_run(config, folder)
        else:
            if config.ckpt_path in (None, "best", "last"):
                config.ckpt_path = str(find_checkpoint(folder, config.ckpt_path))
                rank_zero_info(f"checkpoint: {config.ckpt_path}")
            self.start = Path(config.ckpt_path)
            self.run_dir = run_of(self.start)
        if self.start and not self.start.is_file():
            raise RunError(f"{self.start}: no such checkpoint; --ckpt_path names a file")
        # what is saved and logged is the whole configuration: it needs neither its bases nor its files
        config.base = config.config = None
        config.run.experiment = self.run_dir.parent.name
        config.run.id = self.run_dir.name
        config.trainer.default_root_dir = str(self.run_dir)
        if config.trainer.precision == "bf16-mixed" and lacks_bf16(config.trainer.accelerator):
            rank_zero_info("precision: this GPU has no bf16, 32-true takes its place")
            config.trainer.precision = "32-true"
        for logger in _listed(config.trainer.logger):
            self._place(logger)

    def _find_run(self, config: Any, folder: Path) -> None:
        """Where to train and what to go on from: a file, "auto" (what this run has saved, if it has) or nothing."""
        if config.ckpt_path is None and restarts():
            config.ckpt_path = "auto"
        given = Path(config.ckpt_path) if config.ckpt_path not in (None, "auto") else None
        self.run_dir = run_of(given) if given and not config.run.id else folder / (config.run.id or new_id())
        checkpoints = self.run_dir / CHECKPOINTS
        own = newest_sound(checkpoints) if config.ckpt_path == "auto" or restarted() else None
        self.start = own or given
        if config.ckpt_path is None and any(checkpoints.glob("*.ckpt")):
            raise RunError(
                f"{self.run_dir} holds a trained run; continue it with --ckpt_path auto or give another --run.id"
            )

    def _place(self, logger: Any) -> None:
        name, init = logger.class_path.rsplit(".", 1)[-1], logger.init_args
        if name == "CSVLogger":
            init.save_dir = str(self.verb_dir)
        elif name == "WandbLogger":
            init.save_dir = str(self.run_dir)
            init.group = init.group or self.run_dir.parent.name
            init.name = init.name or f"{self.run_dir.parent.name}/{self.run_dir.name}"
            # a sweep's agent has chosen the id
            init.id = init.id or os.environ.get("WANDB_RUN_ID") or f"{self.run_dir.parent.name}-{self.run_dir.name}"

    @property
    def verb_dir(self) -> Path:
        """Where the verb writes: the run's folder for `fit`, one in it for the others."""
        return self.run_dir if self.subcommand == "fit" else self.run_dir / str(self.subcommand)

    def instantiate_classes(self) -> None:
        """Instantiates and checks that network and data fit, before any case is prepared."""
        self.config_init = self.parser.instantiate(self.config)
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "module")
        self.model.check_data(self.datamodule)
        # class paths and arguments, from which Lightning's `load_from_checkpoint` makes the module again
        self.text = self._parser(self.subcommand).dump(self.config[self.subcommand], skip_unset=False)
        recipe = yaml.safe_load(self.text)
        self.model.save_hyperparameters(recipe["module"] | {"_instantiator": INSTANTIATOR}, logger=False)
        self.trainer = self.instantiate_trainer()

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        shows = config.get("enable_progress_bar") is not False
        ours: list[Callback] = [
            # before the table, which it would else write over
            *([ProgressBar()] if shows else []),
            RunSummary(self.run_dir),
            CaseTable(self.verb_dir),
            PredictionWriter(self.run_dir / "predictions"),
            RandomState(),
        ]
        # for the other verbs too: they restore its state with the checkpoint
        ours.append(_saving(self.run_dir / CHECKPOINTS, validated=config.get("limit_val_batches") != 0))
        if self.subcommand == "fit":
            ours.append(SameEverywhere(configuration=self.text, checkpoint=str(self.start)))
            ours += [FiniteLoss(self.run_dir), Provenance(self.text), Continuation()]
            ours.append(SaveOnLeaving(self.run_dir / CHECKPOINTS / LAST))
            if config.get("logger"):
                ours += [LearningRateMonitor("step"), Throughput()]
        config["plugins"] = [*_listed(config.get("plugins")), VerifiedCheckpointIO()]
        return super()._instantiate_trainer(config, [*ours, *callbacks])

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand) | {"ckpt_path": self.start}
        if subcommand in ("validate", "test"):
            kwargs["verbose"] = False  # `CaseTable` prints the scores
        if subcommand == "predict":
            kwargs["return_predictions"] = False  # they are written as they come
        return kwargs


def lacks_bf16(accelerator: str) -> bool:
    """Whether the run takes a GPU on which bf16 is emulated or absent."""
    takes_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return takes_gpu and not torch.cuda.is_bf16_supported(including_emulation=False)


class SaveConfig(SaveConfigCallback):
    """Writes the run's `config.yaml` and `splits.json` when it trains, and tells the loggers the configuration."""

    def __init__(self, parser: LightningArgumentParser, config: Any, **kwargs: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False, **kwargs)

    def save_config(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """On rank 0, once."""
        if stage != "fit":
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        text = self.parser.dump(self.config, skip_unset=False)
        (folder / "config.yaml").write_text(text)
        trainer.datamodule.split.save(folder / "splits.json")  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(text))


def _saving(folder: Path, *, validated: bool) -> ModelCheckpoint:
    """Saves the best and the last state after every validation, or, where there is none, the last after every epoch."""
    if not validated:
        return ModelCheckpoint(folder, Path(LAST).stem, enable_version_counter=False)
    return ModelCheckpoint(
        folder,
        "best",
        monitor="val/dice_mean",
        mode="max",
        save_last=True,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )


def _listed(value: Any) -> list[Any]:
    if value in (None, True, False):
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
