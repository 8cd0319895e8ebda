"""The verbs `fit`, `validate`, `test` and `predict`: LightningCLI with folders, loggers and callbacks decided."""

from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks import ProgressBar as LightningBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console

from raum_lightning.atomic import expanded
from raum_lightning.cli import TRAINER_VERBS
from raum_lightning.cli.command_line import CommandLine, read_command_line
from raum_lightning.cli.config_inheritance import mapping
from raum_lightning.cli.derived import METRICS, derive, spell_out, take_trained
from raum_lightning.cli.errors import RANKS, refusals, restoring
from raum_lightning.cli.key_errors import explain_configuration
from raum_lightning.cli.known_keys import MODULE_CLASS
from raum_lightning.cli.log_filters import quieten
from raum_lightning.cli.own_code import find_beside, find_module_class, folders_before, lists_for_tensors
from raum_lightning.cli.run_plan import apply_plan, as_list, make_plan, without_run
from raum_lightning.cli.save_config import SaveConfig
from raum_lightning.cli.trainer_help import keys, trainer_help
from raum_lightning.data.augment.one_of import INSTANTIATORS
from raum_lightning.data.datamodule import BratsDataModule
from raum_lightning.errors import ConfigError
from raum_lightning.inference.exported import SAFETENSORS, read_card
from raum_lightning.inference.trusted import INSTANTIATOR
from raum_lightning.loggers import finish_wandb
from raum_lightning.module import SegmentationModule
from raum_lightning.runs.folder import RunFolder
from raum_lightning.runs.lock import locked
from raum_lightning.runs.naming import RunOptions, new_id
from raum_lightning.runs.outputs import SCORES, VOLUMES, check_folder
from raum_lightning.runs.resume_checks import check_agreement, check_fill_absent, check_modalities, flat
from raum_lightning.training.callbacks.best import BestCheckpoint
from raum_lightning.training.callbacks.checkpoint import Continuation, Provenance, TrainedCases
from raum_lightning.training.callbacks.failures import FiniteLoss, SameEverywhere
from raum_lightning.training.callbacks.predictions import PredictionWriter
from raum_lightning.training.callbacks.preemption import LastCheckpoint, LeaveOnSignal, leaving_on_signal
from raum_lightning.training.callbacks.progress import ProgressBar, RunSummary
from raum_lightning.training.callbacks.rate import LearningRate
from raum_lightning.training.callbacks.rng import RandomState
from raum_lightning.training.callbacks.tables import CaseTable
from raum_lightning.training.callbacks.throughput import Throughput
from raum_lightning.training.callbacks.wandb_run import WandbRun
from raum_lightning.training.checkpoint_io import VerifiedCheckpointIO
from raum_lightning.training.option_checks import check_monitors, check_seed, check_trainer
from raum_lightning.training.schedule import check_length
from raum_lightning.yaml_files import to_yaml

TRAINER_DEFAULTS = {
    "logger": {"class_path": METRICS},
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    # `no_grad` instead: in inference mode autocast casts the weights again for each window
    "inference_mode": False,
    # `RunSummary` says what matters of it
    "enable_model_summary": False,
}
CKPT_PATH = (
    "a file; for fit also auto: resume this run from what it has saved, if it has; for the other verbs also best or "
    "last of the experiment's newest run, or of --run.id (default, and with auto: best), and *.safetensors of `raum "
    "export`; test and predict take those of `raum ensemble` too"
)
OWN_MODULE = "a class that inherits from SegmentationModule and replaces it; its arguments are keys of module"
OUT = (
    "folder for what validate, test and predict write; where not given that of the checkpoint's run, or one below "
    "--run.root where that is given and the run lies elsewhere"
)


def run_trainer(args: Sequence[str]) -> int:
    """Run one verb; return the exit code."""
    quieten()
    RANKS["world"] = 1
    failed = True
    try:
        with leaving_on_signal():
            RaumCLI(list(args))
        failed = False
    finally:
        finish_wandb(failed=failed)
    return 0


class RaumCLI(LightningCLI):
    """LightningCLI whose network and loss stand under `module`, with one folder per run."""

    verb: str
    given: CommandLine
    code: list[Path]
    """Folders in which classes of the user's own are found."""
    derived: list[str]
    """The network's arguments that follow from the data or, where not fitting, from the checkpoint."""
    run_dir: Path
    results: RunFolder
    """Where this verb writes its numbers."""
    predictions: Path
    new_folders: list[Path]
    """Folders that are not there before."""
    start: Path | None  # the checkpoint to resume from

    def __init__(self, args: list[str]) -> None:
        self.verb, self.given = args[0], spell_out(read_command_line(args[1:]))
        self.code = [*self.given.files.folders, *folders_before(self.given.files.files)]
        find_beside(self.code)
        lists_for_tensors()
        self.module_class = find_module_class(self.given)
        # a mistyped key is an error, not an abbreviation, and is explained by us
        exact = {"allow_abbrev": False, "exit_on_error": False}
        super().__init__(
            self.module_class,
            BratsDataModule,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs=exact | {self.verb: exact},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the verb and the arguments of the trainer's method that are no options, or options of our own.

        Lightning makes a parser for each verb that is returned, which takes a tenth of a second.
        """
        return {self.verb: super().subcommands()[self.verb] | {"ckpt_path"}}

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our groups before the trainer's, with `module` for the parent's `model`."""
        parser.add_lightning_class_args(self.module_class, "module")
        parser.add_lightning_class_args(BratsDataModule, "data")
        parser.add_class_arguments(RunOptions, "run")
        parser.add_argument("--ckpt_path", type=str | None, default=None, help=CKPT_PATH)
        parser.add_argument(f"--{MODULE_CLASS}", type=str | None, default=None, help=OWN_MODULE)
        parser.add_argument("--out", type=Path | None, default=None, help=OUT)
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{key}": value for key, value in self.trainer_defaults.items()})

    def _parse_ckpt_path(self) -> None:
        """The YAML and the command line decide; the parent lets the checkpoint's hyperparameters override them."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the verb and its words; the files among them are merged before the parser sees them."""
        verb = args[0]
        if {"-h", "--help"}.intersection(args):
            print(trainer_help(self._parser(verb), verb, TRAINER_VERBS[verb]))
            raise SystemExit(0)
        if "--keys" in args:
            print("\n".join(keys(self._parser(verb))))
            raise SystemExit(0)
        derived = derive(self.given)
        self.derived = list(derived.network)
        if verb != "fit":  # whose class, of the user's own, need not be there any more
            mapping(derived.tree.get("module")).pop("init_from", None)
        text = to_yaml(derived.tree)
        try:
            self.config = parser.parse_args([verb, f"--config={text}", *derived.words])
        except ArgumentError as error:
            raise ConfigError(explain_configuration(self._parser(verb), self.given, error)) from error
        config = self.config[verb]
        config.run.root, config.out = expanded(config.run.root), config.out and expanded(config.out)
        if config.ckpt_path:
            config.ckpt_path = str(expanded(config.ckpt_path))
        check_trainer(self.config[verb].trainer)
        check_seed(self.config[verb].seed_everything)

    def before_instantiate_classes(self) -> None:
        """Decide the run's folder and checkpoint, and tell them to trainer and loggers."""
        verb, config, given = str(self.subcommand), self.config[self.subcommand], self.given
        if config.out and verb != "fit":
            check_folder(config.out, [VOLUMES] if verb == "predict" else SCORES)
        root = given.place("run", "root")
        # that in a run's own config.yaml says where it was made, and the run may have moved
        root_is_given = root is not None and RunFolder.of_file(Path(root.rpartition(", line ")[0])) is None
        plan = make_plan(verb, config, given.files.files, root_is_given=root_is_given)
        for line in (*(f"experiment: {file}, which is shipped" for file in given.files.shipped), *plan.said):
            rank_zero_info(line)
        self.start = plan.start
        folders = (config.out, plan.run and plan.run.path, plan.experiment, plan.experiment.parent)
        self.new_folders = [folder for folder in folders if folder and not folder.exists()]
        self.run_dir = plan.run.path if plan.run else plan.experiment / new_id(plan.experiment)
        self.new_folders[:0] = [] if plan.run else [self.run_dir]
        if plan.start and verb != "fit":
            config.module.network = take_trained(config.module.network, self.derived, plan.start, verb)
        self.results = RunFolder(config.out) if config.out else self.run.of(verb, without=config.data.without)
        self.predictions = config.out or self.run.predictions
        config.run.experiment = self.run.experiment
        config.trainer.precision = plan.precision
        text = self._parser(verb).dump(without_run(config), skip_unset=False)
        self.save_config_kwargs = {"text": to_yaml(yaml.safe_load(text)), "code": self.code}
        apply_plan(plan, config, self.run, verb)

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
                self.config_init = self.parser.instantiate(self.config, instantiators=INSTANTIATORS)
        except ConfigError as error:
            said = error.__cause__ or error  # what a library says, or a sentence of our own
            explained = explain_configuration(self._parser(self.subcommand), self.given, said)
            raise ConfigError(explained) from error
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "module")
        self.model.check_data(self.datamodule, fitting=self.subcommand == "fit")
        # class paths and arguments, from which Lightning's `load_from_checkpoint` makes the module again
        self.text = self._parser(self.subcommand).dump(self.config[self.subcommand], skip_unset=False)
        self.settings = yaml.safe_load(self.text)
        if self.subcommand == "fit":
            check_length(self.settings["trainer"], self.model.recipe.warmup)
            if self.start and self.model.init_from:
                rank_zero_info(f"module.init_from is not read: the weights are those of {self.start}")
                self.model.init_from = None
            self.model.start_from(self.datamodule)
        if self.start:
            self._check_start(self.start)
        self.model.save_hyperparameters(self.settings["module"] | {"_instantiator": INSTANTIATOR}, logger=False)
        self.trainer = self.instantiate_trainer()
        RANKS["world"] = self.trainer.world_size

    def _check_start(self, start: Path) -> None:
        if start.suffix == SAFETENSORS:
            card, made = read_card(start)
            if isinstance(made, list) and self.settings["module"]["compile"]:
                raise ConfigError(f"{start}: an ensemble file cannot be run with module.compile; leave it out")
            if card.mode != self.model.mode:
                raise ConfigError(f"{start}: its channels are {card.mode} and module.mode is {self.model.mode}")
            check_modalities(start, card.modalities, self.settings)
            check_fill_absent(start, card.fill_absent, self.settings)
            return
        own = start.resolve().parent == self.run.checkpoints.resolve()
        trains = self.subcommand == "fit"
        check_agreement(start, self.settings, trains=trains, continues=trains and own)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        saves = config.get("enable_checkpointing") is not False
        # for the other verbs too: they restore its state with the checkpoint
        best = self._best(self.settings["run"]["keep"]) if saves else None
        given = as_list(config.get("callbacks"))
        own_bar = any(isinstance(callback, LightningBar) for callback in given)
        shows = not own_bar and config.get("enable_progress_bar") is not False and Console().is_terminal
        if not own_bar and not shows:
            config["enable_progress_bar"] = False  # in a log file `RunSummary` says how far it is
        ours: list[Callback] = [
            # before the table, which it would else write over
            *([ProgressBar()] if shows else []),
            RunSummary(self.run_dir, best),
            CaseTable(self.results, f"{self.run.experiment}/{self.run.id}"),
            *([] if self._watches_cases else [TrainedCases()]),
            PredictionWriter(self.predictions),
            WandbRun(self.predictions, best),
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
                ours += [LearningRate(), Throughput()]
        # a module of the user's own may log other names
        if self.subcommand == "fit" and type(self.model) is SegmentationModule:
            check_monitors(given, self.model.val_metrics.metrics, self.model.regions)
        config["plugins"] = [*as_list(config.get("plugins")), VerifiedCheckpointIO()]
        with refusals("trainer", config):
            return super()._instantiate_trainer(config, [*ours, *callbacks])

    @property
    def _watches_cases(self) -> bool:
        """Whether the module brings `TrainedCases`; one whose hook is of the user's own may have left it out."""
        return type(self.model).configure_callbacks is SegmentationModule.configure_callbacks

    def _best(self, keep: int) -> BestCheckpoint:
        return BestCheckpoint(self.run, f"val/{self.model.monitor}", lower=self.model.lower_is_better, keep=keep)

    def _run_subcommand(self, subcommand: str) -> None:
        given = self.settings["trainer"]
        # the other ranks have no lock of their own
        alone = locked(self.run) if subcommand == "fit" and self.trainer.is_global_zero else nullcontext()
        refused = refusals("trainer", given, (ValueError, TypeError))
        with self._no_empty_folder(), alone, refused, restoring(self.start):
            super()._run_subcommand(subcommand)
        self._remove_empty()  # of a fast_dev_run

    @contextmanager
    def _no_empty_folder(self) -> Iterator[None]:
        """Remove the folders that were made for this run where a refused start leaves them empty."""
        try:
            yield
        except BaseException:
            self._remove_empty()
            raise

    def _remove_empty(self) -> None:
        for folder in self.new_folders:
            with suppress(OSError):
                folder.rmdir()

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand) | {"ckpt_path": self.start}
        if subcommand in ("validate", "test"):
            kwargs["verbose"] = False  # `CaseTable` prints the scores
        if subcommand == "predict":
            kwargs["return_predictions"] = False  # they are written as they come
        return kwargs
