"""Which code, data and machine a run is made of."""

import hashlib
import json
import platform
import subprocess
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from raum_lightning import __version__
from raum_lightning.atomic import write_json
from raum_lightning.machine import usable_cores
from raum_lightning.runs.folder import RunFolder

PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("torch", "lightning", "torchio", "numpy")


def versions() -> dict[str, str]:
    """Return those of this package, Python and the libraries that decide what a run computes."""
    return {"raum_lightning": __version__, "python": platform.python_version()} | {
        name: version(name) for name in LIBRARIES
    }


def commit(folder: Path = PACKAGE) -> str | None:
    """Return the git commit of the files in `folder`, with -dirty where they differ; None where git has none."""
    # a package that is installed in a virtual environment within another project's checkout is not of that commit
    tracked = _git(folder, "ls-files", "--error-unmatch", ".")
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") if tracked else None


def hardware() -> dict[str, Any]:
    """Return name and number of the GPUs, where there are any, and of the CPU's cores that this process may take."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"gpus": gpus, "cpu": _cpu(), "cores": usable_cores()}


def fingerprint(data: Any) -> str:
    """Return a hash of what a `BratsDataModule` trains, validates and tests on: ids and voxels, wherever they lie."""
    split = data.split
    parts = [
        [(name, sorted(data.prepared[name].checksums.items())) for name in sorted(part)]
        for part in (split.train, split.val, split.test)
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def provenance(data: Any) -> dict[str, Any]:
    """Return what a run that trains on `data` (a `BratsDataModule`) is made of."""
    return {"commit": commit(), "data": fingerprint(data), "versions": versions(), "hardware": hardware()}


def note_start(run: RunFolder, content: dict[str, Any]) -> None:
    """Add what a run is made of to its file, which has an entry for each time that it was started or resumed."""
    path = run.provenance
    before = json.loads(path.read_text()) if path.exists() else []
    write_json(path, [*before, {"started": datetime.now().astimezone().isoformat(timespec="seconds")} | content])


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
