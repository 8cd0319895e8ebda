"""Filters for warnings and messages of libraries that a user cannot act on, or that raum reports itself."""

import logging
import os
import re
import sys
import warnings
from typing import Any

WARNINGS = (
    # volumes are read from a memory map in milliseconds; the training loader has the workers it was given
    r"The '(val|test|predict|train)_dataloader' does not have many workers",
    # `BratsDataModule.setup` says it once
    r"This DataLoader will create \d+ worker processes in total",
    # short runs are meant to be short
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    # a run too short to be validated has no best checkpoint; `RunSummary` says so
    r"`ModelCheckpoint\(monitor='val/\w+'\)` could not find the monitored key",
    # a resumed run writes where it wrote before
    r"Checkpoint directory .* exists and is not empty",
    # a checkpoint of another run is the start of this one, whose best is its own
    r"The dirpath has changed from ",
    # every case is segmented already; `PredictionWriter` says so
    r"Total length of `DataLoader` across ranks is zero",
    # while gradients are taken nothing changes logits in place
    r"FSDP2-wrapped module \(\w+\) returned a view tensor",
    # of 1x1x1 convolutions in channels last, whose few weights DDP copies
    r"Grad strides do not match bucket view strides",
    # of Lightning itself: https://github.com/Lightning-AI/pytorch-lightning/issues/21340
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)
# advertisements, devices that are not used, what `RunSummary` says of ranks and end, Ctrl-C, which we say ourselves,
# that a checkpoint will be loaded, which is said again when a run is resumed, and for the other verbs by `run_plan`
UNSAID = re.compile(
    r".*Tip:|\nDetected KeyboardInterrupt|(GPU|TPU|HPU) available: |-{20}|`Trainer.fit` stopped: `max_(steps|epochs)="
    r"|Restoring states from the checkpoint path|Loaded model weights from the checkpoint",
    re.DOTALL,
)
# what they say, every rank would say
TALKATIVE = ("fabric.utilities.seed", "fabric.utilities.distributed", "pytorch.trainer.connectors.signal_connector")


class StandardError(logging.StreamHandler[Any]):
    """Writes to what `sys.stderr` is at the moment: a bar that is being drawn lets it pass above itself."""

    @property
    def stream(self) -> Any:
        """The stream."""
        return sys.stderr

    @stream.setter
    def stream(self, stream: Any) -> None:
        pass


def quieten() -> None:
    """Filter these warnings and messages out, in this process, and let no message write over a bar."""
    for pattern in WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    if "SLURM_JOB_ID" not in os.environ:  # a login node, or a workstation with SLURM's tools
        warnings.filterwarnings("ignore", "The `srun` command is available on your system but is not used")
    for name in ("pytorch", "fabric"):
        root = logging.getLogger(f"lightning.{name}")
        if any(type(handler) is logging.StreamHandler for handler in root.handlers):
            root.handlers = [StandardError()]
        log = logging.getLogger(f"lightning.{name}.utilities.rank_zero")
        log.addFilter(lambda record: not UNSAID.match(record.msg))
    for name in TALKATIVE:
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
