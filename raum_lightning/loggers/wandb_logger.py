"""The numbers and pictures of a run on Weights & Biases."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import wraps
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import loggers
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from raum_lightning.errors import ConfigError
from raum_lightning.loggers.csv_file import CSVLogger
from raum_lightning.loggers.wandb_run import sending, wandb_mode
from raum_lightning.runs.checkpoints import MODEL_CARD, structure

BEST = "val/dice_"
# in W&B: sections stand in the order of the alphabet, so that Dice comes first and `lr` makes none of its own
DICE, RENAMED = "dice/", {"lr": "train/lr"}


def _never_fatal(log: Callable[..., None]) -> Callable[..., None]:
    """Let a method of `WandbLogger` do its work on rank 0, as long as W&B's own process lives."""

    @wraps(log)
    def logged(self: "WandbLogger", *args: Any, **kwargs: Any) -> None:
        if self.lost:
            return
        try:
            log(self, *args, **kwargs)
        except Exception as error:  # whatever W&B has to say, it is no reason to stop training
            self.lost = True
            rank_zero_info(
                f"W&B logging has stopped ({type(error).__name__}); training continues and metrics.csv has all "
                f"numbers; what W&B had before is on disk, {sending(self.save_dir)}"
            )

    return rank_zero_only(logged)


class WandbLogger(loggers.WandbLogger):
    """Lightning's logger, which chooses between online and offline by itself and whose failures never end a training.

    A server that cannot be reached at the start makes it an offline run. One that is lost later is tried again by W&B
    itself, for five minutes (WANDB_FINISH_TIMEOUT) after the last number, and what is not sent stays on disk.

    The curves `dice/wt`, `dice/tc`, `dice/et` and `dice/mean` are those of `val/dice_*`, which is no panel but a number
    in the summary: the best so far, which a sweep can optimise. What validate and test log goes to the summary.

    Args:
        project: Project on the server.
        name: Name of the run.
        save_dir: Folder in which `wandb/` is created.
        id: Names the run for good: the same id continues it.
        hash_ids: Send a hash in place of each case's id, and neither what the terminal shows nor the command line. It
            hides an id only from who cannot guess it: numbers of a hospital can be tried one by one.
        offline: Keep the run on disk until `wandb sync`; where not given, only when no key is configured. WANDB_MODE in
            the environment (online, offline, shared or disabled) comes first.
        entity: User or team on the server that owns the project; your default one where not given.
        group: Groups runs.
        job_type: Kind of the run, such as train.
        tags: Tags of the run.
        notes: A sentence about the run.
        log_model: `best` keeps best.ckpt with its model card as an artifact when the training ends.
        alerts: Send an alert when the training ends, and when it fails (NaN in the loss, for one).
    """

    def __init__(
        self,
        project: str = "raum",
        *,
        name: str | None = None,
        save_dir: Path | str = ".",
        id: str | None = None,
        hash_ids: bool = False,
        offline: bool | None = None,
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        log_model: Literal["best"] | None = None,
        alerts: bool = False,
    ) -> None:
        mode, reason = wandb_mode(offline)
        if mode == "offline":
            rank_zero_info(f"{reason}: the run stays on disk")
        if hash_ids and log_model:
            raise ConfigError("log_model sends a checkpoint, which names its cases; do without it or without hash_ids")
        try:
            Path(save_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"trainer.logger: save_dir={save_dir} cannot be made ({error.strerror})") from error
        self.shown_id = _hashed if hash_ids else str
        self.hides_ids = hash_ids
        # `mode` and not Lightning's `offline`, which sets a mode that wandb no longer knows
        how: dict[str, Any] = {"mode": mode, "resume": None if mode == "offline" else "allow"}
        # its dozens of lines at the end become the one of `finish_wandb`
        how["settings"] = {"silent": True}
        how |= {"entity": entity, "group": group, "job_type": job_type, "tags": tags, "notes": notes}
        super().__init__(project=project, name=name, save_dir=save_dir, id=id, **how)
        self._wandb_init.pop("anonymous", None)  # wandb warns of it even where it is None
        if hash_ids:
            # W&B's metadata hold the command line, in which a path may name a case
            self._wandb_init["settings"] |= {"console": "off", "x_disable_meta": True}
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", "300")  # seconds; W&B's own default is to wait for ever
        self.keeps_best, self.alerts = log_model == "best", alerts
        self.verb = "fit"
        self.lost = False
        self.best: dict[str, float] | None = None
        self.folder = Path(save_dir)
        """Where the run's metrics.csv is."""

    @property
    def experiment(self) -> Any:
        """The run."""
        import wandb

        fresh = self._experiment is None
        try:
            run = super().experiment
        except wandb.errors.CommError as error:
            refused = isinstance(error, wandb.errors.AuthenticationError)
            reason = next(iter(str(error).splitlines()), "")
            said = f"W&B does not take the key ({reason})" if refused else "W&B cannot be reached"
            rank_zero_info(f"{said}: the run stays on disk, {sending(self.save_dir)}")
            wandb.teardown()  # the process of W&B's own that has failed to start the run
            self._wandb_init |= {"mode": "offline", "resume": None}
            run = super().experiment
        if fresh and hasattr(run, "define_metric"):
            for name in ("epoch", f"{BEST}*"):
                run.define_metric(name, step_metric="trainer/global_step", hidden=True)
        return run

    @_never_fatal
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row while training; the other verbs write to the summary, validate under names of its own."""
        if self.verb != "fit":
            scores = {name: value for name, value in metrics.items() if "/" in name}
            self.experiment.summary.update({_of_verb(name, self.verb): value for name, value in scores.items()})
            return
        dice = {name: value for name, value in metrics.items() if name.startswith(BEST)}
        shown = {RENAMED.get(name, name): value for name, value in metrics.items()}
        super().log_metrics(shown | {f"{DICE}{name.removeprefix(BEST)}": dice[name] for name in dice}, step)
        if dice:  # as numbers, which a sweep can optimise; what `define_metric` makes of them are dictionaries
            if self.best is None:
                self.best = {}
                for row in CSVLogger(self.folder).rows():  # of an earlier process of the same run
                    self._raise_best({name: float(row[name]) for name in row if name.startswith(BEST) and row[name]})
            self._raise_best(dice)
            self.experiment.summary.update(self.best)

    def _raise_best(self, dice: Mapping[str, float]) -> None:
        """Keep what is better than before; the Dice of a region that no case has is NaN."""
        assert self.best is not None
        known = {name: float(value) for name, value in dice.items() if not math.isnan(value)}
        self.best |= {name: max(value, self.best.get(name, value)) for name, value in known.items()}

    @_never_fatal
    def log_image(self, key: str, images: list[Any], step: int | None = None, **how: Any) -> None:
        """Log pictures as long as W&B's own process lives."""
        super().log_image(key, images, step, **how)

    @_never_fatal
    def log_table(self, key: str, columns: Any = None, data: Any = None, *rest: Any, **how: Any) -> None:
        """Log a table as long as W&B's own process lives."""
        super().log_table(key, columns, data, *rest, **how)

    @_never_fatal
    def log_hyperparams(self, params: Any) -> None:
        """Log the configuration as long as W&B's own process lives."""
        super().log_hyperparams(_with_ids(params, self.shown_id) if isinstance(params, dict) else params)

    @_never_fatal
    def alert(self, title: str, text: str) -> None:
        """Send an alert, where `alerts` are wanted."""
        if self.alerts:
            self.experiment.alert(title=title, text=text, level="INFO")

    @_never_fatal
    def alert_failure(self, error: BaseException) -> None:
        """Send an alert of what ended the training, where `alerts` are wanted; its sentence may name cases."""
        if self.alerts:
            text = type(error).__name__ if self.hides_ids else str(error)
            self.experiment.alert(title="training has failed", text=text, level="ERROR")

    @_never_fatal
    def keep_best(self, checkpoint: Path, score: float) -> None:
        """Log a checkpoint as an artifact with its model card, where `log_model` is best."""
        if not self.keeps_best:
            return
        import wandb

        card = structure(checkpoint).get(MODEL_CARD, {})
        run = self.experiment
        artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata={"score": score, "model_card": card})
        artifact.add_file(str(checkpoint), name=checkpoint.name)
        with artifact.new_file("model_card.json") as file:
            json.dump(card, file, indent=2)
        run.log_artifact(artifact, aliases=["best"])


def _of_verb(name: str, verb: str) -> str:
    """Return the name of a score of `validate` beside those of the validations within `fit`."""
    return f"{verb}/{name.partition('/')[2]}" if name.startswith("val/") else name


def _hashed(case: str) -> str:
    return hashlib.blake2b(case.encode(), digest_size=6).hexdigest()


def _with_ids(params: dict[str, Any], shown: Callable[[str], str]) -> dict[str, Any]:
    """Return a configuration whose cases are called as they are `shown`: those of the split, excluded and weighted."""
    params = deepcopy(params)
    data = params.get("data")
    if isinstance(data, dict):
        data["exclude"] = [shown(case) for case in data.get("exclude") or ()]
        if isinstance(weights := data.get("case_weights"), dict):
            data["case_weights"] = {shown(case): weight for case, weight in weights.items()}
    if isinstance(split := params.get("split"), dict):
        params["split"] = {part: [shown(case) for case in cases] for part, cases in split.items()}
    return params
