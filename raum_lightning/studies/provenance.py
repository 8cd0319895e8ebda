"""Where results come from: code, libraries, machine, data, and what each fold cost."""

import shlex
from collections.abc import Mapping
from typing import Any

import torch

from raum_lightning.errors import RunError
from raum_lightning.inference.loading import open_network
from raum_lightning.json_files import read_json
from raum_lightning.runs.checkpoints import structure
from raum_lightning.studies.prediction import trusted
from raum_lightning.studies.study import Study
from raum_lightning.studies.training import seconds_of, training_of
from raum_lightning.training.provenance import commit, hardware, versions
from raum_lightning.yaml_files import read_yaml


def provenance(study: Study) -> dict[str, Any]:
    """Return what must be known to make the results again; commit and hardware are those of the training."""
    first, started = study.folder.checkpoint(0), _started(study)
    trained = open_network(first, trust=trusted(study)) if first.exists() else None
    return {
        "command": f"raum cross-validate {shlex.join(study.command)}",
        "commit": started["commit"] if "commit" in started else commit(),
        "versions": dict(trained.card.versions) if trained else versions(),
        "hardware": started.get("hardware") or hardware(),
        "parameters": sum(one.numel() for one in trained.network.parameters()) if trained else None,
        "data": study.data_hash,
        "splits": study.splits_hash,
        "cases": len(study.fold_of),
        "held_out": len(study.splits[0].test),
    }


def _started(study: Study) -> Mapping[str, Any]:
    """Return what the first fold has noted of its last start; nothing where it has noted none."""
    path = study.folder.run(0).provenance
    starts: list[dict[str, Any]] = read_json(path, RunError) if path.exists() else []
    return starts[-1] if starts else {}


def cost(study: Study, fold: int) -> dict[str, Any]:
    """Return what a fold has cost: steps, patches, seconds, and peak memory of its process in MB; None for unknown."""
    last = study.folder.run(fold).last
    steps = structure(last).get("global_step") if last.exists() else None
    seconds = seconds_of(study, fold)
    peaks = [attempt["peak_mb"] for attempt in training_of(study, fold) if attempt.get("peak_mb")]
    return {
        "steps": steps,
        "patches": steps * _patches_per_step(_config_of(study, fold)) if steps is not None else None,
        "seconds": round(seconds, 1) if seconds is not None else None,
        "peak_mb": round(max(peaks)) if peaks else None,
    }


def _config_of(study: Study, fold: int) -> Mapping[str, Any]:
    """Return what a fold was trained with, in which a cluster's script has its devices and nodes; else the study's."""
    path = study.folder.run(fold).config
    config: Mapping[str, Any] = read_yaml(path)[0] if path.exists() else study.config
    return config


def _patches_per_step(config: Mapping[str, Any]) -> int:
    trainer = config["trainer"]
    devices = trainer.get("devices", "auto")
    if isinstance(devices, list):
        devices = len(devices)
    if not isinstance(devices, int) or devices < 0:
        devices = max(1, torch.cuda.device_count()) if trainer.get("accelerator") != "cpu" else 1
    ranks = devices * int(trainer.get("num_nodes") or 1)
    return ranks * int(config["data"]["batch_size"]) * int(trainer.get("accumulate_grad_batches") or 1)
