"""Checks of what a run must share with the checkpoint that it resumes from, where nothing else would notice."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from raum_lightning.errors import RunError
from raum_lightning.runs.checkpoints import MODEL_CARD, structure

# where things lie, and what costs time or memory but not the results; of `data.batch_size` see `PatchLoader`
FREE = {
    "data.root",
    "data.predict_root",
    "data.prepared_dir",
    "data.splits",
    "data.num_workers",
    "data.augment_on",
    "data.batch_size",
    "module.network.init_args.checkpointing",
}
# what the checkpoint's optimiser and scheduler bring along, so that another value would change nothing; of
# `module.warmup_steps`, `module.schedule` and the run's length see `follow_schedule`
RECIPE = {f"module.{key}" for key in ("lr", "weight_decay", "betas", "no_decay", "layer_decay")}
CLASSES = ("module.optimizer", "module.lr_scheduler")
# beginnings of what else decides what a run computes, for one that continues itself
LOSS = "module.loss"
CONTINUED = (
    *("data.", "module.network.", f"{LOSS}.", "trainer.gradient_clip", "seed_everything"),
    *(f"module.{key}" for key in ("mode", "monitor", "freeze", "thaw_after", "ema")),
)
# keys of the release before, and what they are called now
RENAMED = {
    "module.network.init_args.taps": "module.network.init_args.out_indices",
    "data.edition": "data.dataset",
}


def check_agreement(checkpoint: Path, config: Mapping[str, Any], *, trains: bool, continues: bool) -> None:
    """Raise `RunError` where a checkpoint was trained on other channels than `config` has.

    Where it is to be trained on, the optimiser must be the same, and where the run `continues` itself, data, network,
    loss and what is frozen too in all that decides what is computed.
    """
    content = structure(checkpoint)
    if trains and "config" in content:
        before, now = (_renamed(_flat_settings(one)) for one in (yaml.safe_load(content["config"]), config))
        _same_settings(checkpoint, before, now, CONTINUED if continues else ())
    card = content.get(MODEL_CARD) or content.get("case", {})  # the key of older checkpoints
    check_modalities(checkpoint, card.get("modalities"), config)
    check_fill_absent(checkpoint, card.get("fill_absent", {}), config)


def check_modalities(checkpoint: Path, trained: Sequence[str] | None, config: Mapping[str, Any]) -> None:
    """Raise `RunError` where `config` has other channels than those that a checkpoint was trained on."""
    given = config["data"].get("modalities")
    if trained and given and list(trained) != list(given):
        raise RunError(
            f"{checkpoint} was trained on {_joined(trained)}, in this order, and data.modalities are {_joined(given)}: "
            f"give --data.modalities '[{_joined(trained)}]'"
        )


def check_fill_absent(checkpoint: Path, trained: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Raise `RunError` where modalities are left out and `config` fills them with others than the training did."""
    given = config["data"].get("fill_absent") or {}
    if config["data"].get("without") and given != trained:
        wanted = ", ".join(f"{name}: {other}" for name, other in trained.items())
        raise RunError(
            f"{checkpoint} was trained with other data.fill_absent: give --data.fill_absent '{{{wanted}}}', as "
            "`raum segment` has it"
        )


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys within keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings as `flat` does, those of data whole: a mapping that is there or not is another value."""
    return flat(config) | {f"data.{key}": value for key, value in config["data"].items()}


def _renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings under their present keys; a class given by its path alone, or not at all, as one with it."""
    former = {RENAMED[key]: settings[key] for key in RENAMED if settings.get(key) is not None}
    paths = {f"{key}.class_path": settings[key] for key in (*CLASSES, LOSS) if key in settings}
    return {key: value for key, value in settings.items() if key not in RENAMED} | former | paths


def _same_settings(
    checkpoint: Path, before: Mapping[str, Any], now: Mapping[str, Any], beginnings: tuple[str, ...]
) -> None:
    parts = (*beginnings, *(f"{key}." for key in CLASSES))
    fixed = [key for key in before if key in RECIPE or (key.startswith(parts) and key not in FREE)]
    if changed := [key for key in fixed if key in now and now[key] != before[key]]:
        key = changed[0]
        # its weights have seen cases of its own data: not for another fold
        same_data = not any(key.startswith("data.") for key in changed)
        weights = f" from its weights with --module.init_from {checkpoint}" if same_data else ""
        raise RunError(
            f"{checkpoint} was trained with other {_joined(changed)} ({key} was {before[key]} and is {now[key]}): "
            f"continue the run as it was, or train another{weights} under another --run.id"
        )


def _joined(words: Sequence[str]) -> str:
    return ", ".join(words)
