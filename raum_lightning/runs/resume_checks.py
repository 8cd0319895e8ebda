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
# keys of the release before, and what they are called now
RENAMED = {
    "module.network.init_args.taps": "module.network.init_args.out_indices",
    "data.edition": "data.dataset",
}


def check_agreement(checkpoint: Path, config: Mapping[str, Any], *, continues: bool) -> None:
    """Raise `RunError` where a checkpoint was trained on other channels than `config` has.

    Where the run `continues` itself, data and network must be the same in all that decides what is computed.
    """
    content = structure(checkpoint)
    if continues and "config" in content:
        _same_settings(checkpoint, _renamed(flat(yaml.safe_load(content["config"]))), _renamed(flat(config)))
    card = content.get(MODEL_CARD) or content.get("case", {})  # the key of older checkpoints
    check_modalities(checkpoint, card.get("modalities"), config)


def check_modalities(checkpoint: Path, trained: Sequence[str] | None, config: Mapping[str, Any]) -> None:
    """Raise `RunError` where `config` has other channels than those that a checkpoint was trained on."""
    given = config["data"].get("modalities")
    if trained and given and list(trained) != list(given):
        raise RunError(
            f"{checkpoint} was trained on {_joined(trained)}, in this order, and data.modalities are {_joined(given)}: "
            f"give --data.modalities '[{_joined(trained)}]'"
        )


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys within keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings under their present keys."""
    former = {RENAMED[key]: settings[key] for key in RENAMED if settings.get(key) is not None}
    return {key: value for key, value in settings.items() if key not in RENAMED} | former


def _same_settings(checkpoint: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    fixed = [key for key in before if key.startswith(("data.", "module.network.")) and key not in FREE]
    if changed := [key for key in fixed if key in now and now[key] != before[key]]:
        key = changed[0]
        raise RunError(
            f"{checkpoint} was trained with other {_joined(changed)} ({key} was {before[key]} and is {now[key]}): "
            "continue the run as it was, or train another under another --run.id"
        )


def _joined(words: Sequence[str]) -> str:
    return ", ".join(words)
