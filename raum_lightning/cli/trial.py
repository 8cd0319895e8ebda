"""A few training steps of a configuration on made-up patches, two validation cases between them, and some patches."""

import inspect
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import default_collate

from raum_lightning.cases.case import Case
from raum_lightning.cases.discovery import find_cases
from raum_lightning.cli.trainer import RaumCLI
from raum_lightning.data.datamodule import BratsDataModule
from raum_lightning.data.patches import collate_lists
from raum_lightning.data.store import Prepared
from raum_lightning.errors import ConfigError
from raum_lightning.geometry import bounding_box, brain_mask
from raum_lightning.losses import deep_supervision
from raum_lightning.machine import usable_cores
from raum_lightning.training.length import only_timer

WARMUP, STEPS, PATCHES = 1, 3, 8
# voxels along the axes of a brain's box in BraTS, about
BOX = (140, 175, 140)


class TrialCLI(RaumCLI):
    """Takes some steps instead of training; `found` says what they took."""

    found: dict[str, Any]

    def _run_subcommand(self, subcommand: str) -> None:
        device = self.trainer.strategy.root_device
        data, network = self.datamodule, self.model.network
        cases = find_cases(data.root, data.declared) if data.root.is_dir() else []
        volume = _volume(data, cases[0] if cases else None)
        seconds_of_patch, patches = _read_patches(data, volume)
        seconds, seconds_of_case = self._steps(device, volume, patches)
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_of_process()
        weights = sum(parameter.numel() for parameter in self.model.parameters()) * 4
        cuda = device.type == "cuda"
        total = torch.cuda.get_device_properties(device).total_memory if cuda else _machine_memory()
        self.found = {
            "network": type(network).__name__,
            "checkpointing": "checkpointing" in inspect.signature(type(network)).parameters,
            "batch": data.batch_size,
            "accumulated": self.trainer.accumulate_grad_batches,
            "precision": str(self.trainer.precision),
            "device": torch.cuda.get_device_name(device) if cuda else "CPU",
            "memory": total,
            "peak": peak,
            "seconds": seconds,
            "seconds_of_case": seconds_of_case,
            "seconds_of_patch": seconds_of_patch,
            "workers": min(data.num_workers, usable_cores()),
            "steps": self._length(),
            "time": timer.time_remaining() if (timer := only_timer(self.trainer)) else None,
            # weights, and AdamW's two means; with EMA the mean beside them
            "checkpoint": weights * (4 if self.model.average else 3),
            "channels": len(data.modalities),
            "voxels": volume["label"].numel(),
            "cases": len(cases),
        }

    def _steps(self, device: torch.device, volume: dict[str, Any], patches: dict[str, Any]) -> tuple[float, float]:
        """Return seconds of an optimiser step and of a validation case.

        The order is that of a fit: steps, validation, steps; of two cases, as one is scored beside the next.
        """
        module, trainer = self.model.to(device), self.trainer
        module.trainer = trainer
        module.setup("fit")
        # with EMA a fit holds the mean of the weights beside them
        held = [parameter.detach().clone() for parameter in module.parameters()] if module.average else []
        step = self._step(device, patches)
        _timed(step, WARMUP, device)
        seconds = _timed(step, STEPS, device)
        volume = {key: value.to(device) if torch.is_tensor(value) else value for key, value in volume.items()}
        module.eval()

        def validate() -> None:
            with torch.no_grad(), trainer.precision_plugin.val_step_context():
                module.validation_step(volume | {"image": volume["image"].float()}, 0)

        _timed(validate, 1, device)
        seconds_of_case = _timed(validate, 1, device)
        module.scoring.results(module.val_metrics)
        module.train()
        _timed(step, 1, device)
        del held
        return seconds, seconds_of_case

    def _step(self, device: torch.device, patches: dict[str, Any]) -> Callable[[], None]:
        """Return an optimiser step on a batch as Lightning takes it, with the augmentation that runs on the device."""
        module, data, trainer = self.model.train(), self.datamodule, self.trainer
        optimizer, _ = module.recipe.build(module, lambda: math.inf)
        travelled = move_data_to_device(patches, device)

        def step() -> None:
            for part in range(trainer.accumulate_grad_batches):
                batch = data.on_after_batch_transfer(travelled, 0)
                image, label = batch["image"], batch["label"]
                with trainer.precision_plugin.forward_context():
                    output = module.network(image)
                    several = output if isinstance(output, tuple) else (output,)
                    loss = deep_supervision(module.loss_of, several, label)
                if part == 0:  # gradients of the step before are held during the forward pass
                    optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            if trainer.gradient_clip_val:
                torch.nn.utils.clip_grad_norm_(module.parameters(), trainer.gradient_clip_val)
            optimizer.step()

        return step

    def _length(self) -> int:
        """Return the optimiser steps of the run; 0 where time alone ends it."""
        trainer, data = self.trainer, self.datamodule
        if trainer.max_steps > 0:
            return int(trainer.max_steps)
        batches: int = math.ceil(data.patches_per_epoch / trainer.world_size / data.batch_size)
        steps: int = math.ceil(batches / trainer.accumulate_grad_batches)
        return steps * max(0, int(trainer.max_epochs or 0))


def _timed(work: Callable[[], None], times: int, device: torch.device) -> float:
    """Return seconds of one call."""
    start = time.perf_counter()
    for _ in range(times):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / times


def _volume(data: BratsDataModule, case: Case | None) -> dict[str, Any]:
    """Return a made-up validation batch whose brain, an ellipsoid, has the box of the case's, or that of BraTS."""
    size = BOX
    if case is not None:
        x, y, z = bounding_box(brain_mask(case.read(data.modalities[:1])[0]))
        size = (x.stop - x.start, y.stop - y.start, z.stop - z.start)
    axes = (torch.linspace(-1, 1, length).square() for length in size)
    x2, y2, z2 = torch.meshgrid(*axes, indexing="ij")
    radius = x2 + y2 + z2
    image = torch.randn(1, len(data.modalities), *size).half() * (radius <= 1)
    label = (radius < 0.1).to(torch.uint8)[None]
    return {"image": image, "label": label, "case": ["made-up"], "spacing": torch.ones(1, 3)}


def _read_patches(data: BratsDataModule, volume: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Return seconds in which a process of the loader makes a patch of the made-up volume, and a batch of such."""
    with TemporaryDirectory() as folder:
        case = _prepared(Path(folder), data, volume)
        patches = iter(range(WARMUP + PATCHES))
        dataset = data.patches([case])
        threads = torch.get_num_threads()
        torch.set_num_threads(1 if data.num_workers else threads)  # a worker has one

        def patch() -> None:
            dataset[0, next(patches)]

        try:
            _timed(patch, WARMUP, torch.device("cpu"))
            seconds = _timed(patch, PATCHES, torch.device("cpu"))
            collate = collate_lists if data.batch_augmentation else default_collate
            return seconds, collate([dataset[0, number] for number in range(data.batch_size)])
        finally:
            torch.set_num_threads(threads)


def _prepared(folder: Path, data: BratsDataModule, volume: dict[str, Any]) -> Prepared:
    """Write the made-up volume as a prepared case."""
    image, label = volume["image"][0].numpy(), volume["label"][0].numpy()
    tumour = np.flatnonzero(label).astype(np.int32)
    for name, array in {"image": image, "label": label, "tumour": tumour}.items():
        np.save(folder / f"{name}.npy", array)
    affine = tuple(map(tuple, np.diag([-1.0, -1.0, 1.0, 1.0]).tolist()))  # LPS
    return Prepared(
        folder,
        "made-up",
        dataset=data.dataset.name,
        modalities=tuple(data.modalities),
        start=(0, 0, 0),
        shape=label.shape,
        affine=affine,
        tumour={1: len(tumour)},
        checksums={},
    )


def _peak_of_process() -> int:
    try:
        import resource
    except ImportError as error:
        raise ConfigError("this system does not tell a process's peak of memory; plan on Linux or macOS") from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
