"""A few training steps of a configuration on made-up patches."""

import inspect
import math
import os
import sys
import time
from typing import Any

import torch

from raum_lightning.cases.discovery import find_cases
from raum_lightning.cli.trainer import RaumCLI
from raum_lightning.errors import ConfigError
from raum_lightning.losses import deep_supervision
from raum_lightning.models.cpu import accelerate

WARMUP, STEPS = 1, 3


class TrialCLI(RaumCLI):
    """Takes some steps instead of training; `found` says what they took."""

    found: dict[str, Any]

    def _run_subcommand(self, subcommand: str) -> None:
        device = self.trainer.strategy.root_device
        seconds, peak = self._steps(device)
        data, network = self.datamodule, self.model.network
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
            "steps": self._length(),
            # weights, and AdamW's two means; with EMA the mean beside them
            "checkpoint": weights * (4 if self.model.average else 3),
            "channels": len(data.modalities),
            "cases": len(find_cases(data.root, data.declared)) if data.root.is_dir() else 0,
        }

    def _steps(self, device: torch.device) -> tuple[float, float]:
        """Return seconds of an optimiser step and the peak of memory in bytes, of the GPU or of the process."""
        module, data = self.model.to(device).train(), self.datamodule
        accelerate(module.network, enabled=device.type == "cpu" and not module.compiles)
        optimizer, _ = module.recipe.build(module, lambda: math.inf)
        shape = (data.batch_size, len(data.modalities), *data.roi_size)
        image = torch.randn(shape, device=device)
        label = torch.randint(data.dataset.num_classes, (shape[0], *shape[2:]), dtype=torch.uint8, device=device)
        accumulated = self.trainer.accumulate_grad_batches
        cuda = device.type == "cuda"
        for step in range(WARMUP + STEPS):
            if step == WARMUP:
                start = time.perf_counter()
            for _ in range(accumulated):
                with self.trainer.precision_plugin.forward_context():
                    output = module.network(image)
                    several = output if isinstance(output, tuple) else (output,)
                    loss = deep_supervision(module.loss_of, several, label)
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            if cuda:
                torch.cuda.synchronize(device)
        seconds = (time.perf_counter() - start) / STEPS
        return seconds, torch.cuda.max_memory_allocated(device) if cuda else _peak_of_process()

    def _length(self) -> int:
        """Return the optimiser steps of the run."""
        trainer, data = self.trainer, self.datamodule
        if trainer.max_steps > 0:
            return int(trainer.max_steps)
        batches: int = math.ceil(data.patches_per_epoch / trainer.world_size / data.batch_size)
        steps: int = math.ceil(batches / trainer.accumulate_grad_batches)
        return steps * int(trainer.max_epochs or 0)


def _peak_of_process() -> int:
    try:
        import resource
    except ImportError as error:
        raise ConfigError("this system does not tell a process's peak of memory; plan on Linux or macOS") from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
