"""Which exceptions are a user's to mend, and the one sentence that the command line shows for each.

Nothing heavy is imported: the types of torch and Lightning are looked up only where these are loaded already, since
only then one of their exceptions can be on its way.
"""

import errno
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb, walk_tb
from types import TracebackType
from typing import Any

from raum_lightning.atomic import mixed_up
from raum_lightning.errors import CheckpointError, ConfigError, UserError

PACKAGE = Path(__file__).parents[1]
# what libraries raise for values that they cannot use
REFUSALS = (ValueError, TypeError, LookupError, ImportError, AttributeError, NotImplementedError)
LONGEST = 200
# how many processes train together, which Lightning forgets before it hands an error on
RANKS = {"world": 1}
# the file of Lightning that restores all of a checkpoint
_RESTORES = "checkpoint_connector.py"


def explain(error: BaseException) -> str | None:
    """Return the sentence for an exception that a user can mend; None for all others, which are defects."""
    said = str(error)
    if isinstance(error, UserError):
        # torch puts the worker's traceback before it
        return said.rstrip().rpartition(f"{type(error).__name__}: ")[2] if said.startswith("Caught ") else said
    if isinstance(error, OSError):
        if mixed := mixed_up(error):
            return mixed
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"a file could not be written ({error.strerror})"
        return f"{error.filename}: {error.strerror}" if error.filename is not None and error.strerror else None
    if isinstance(error, MemoryError):
        return f"there is too little memory ({first_line(said) or 'it is full'}): take less at once, or another machine"
    if isinstance(error, _loaded("lightning.fabric.utilities.exceptions", "MisconfigurationException")):
        return f"trainer: {first_line(said)}"
    return _explain_failure(error, said) if isinstance(error, RuntimeError) else None


def _explain_failure(error: RuntimeError, said: str) -> str | None:
    if "DefaultCPUAllocator: can't allocate memory" in said:
        asked = re.search(r"you tried to allocate (\d+) bytes", said)
        size = f" ({int(asked[1]) / 1e9:.1f} GB were requested at once)" if asked else ""
        return f"there is too little memory{size}: take a smaller window or batch, or a machine with more"
    if isinstance(error, _loaded("torch", "OutOfMemoryError")):
        return (
            "the GPU is out of memory: lower data.batch_size (and raise trainer.accumulate_grad_batches), set "
            "module.network.init_args.checkpointing to decoder or all, or lower data.roi_size with the network's "
            "img_size; while validating, lower module.sw_batch_size"
        )
    if said.startswith("DataLoader worker") and "signal: Terminated" in said:
        return f"a data loader worker was terminated by a signal from outside ({said.strip().rstrip('.')})"
    if said.startswith("DataLoader worker"):
        return (
            f"a data loader worker died ({said.strip().rstrip('.')}), mostly for lack of memory: "
            "lower data.num_workers, or give the job more memory and /dev/shm"
        )
    if isinstance(error, _loaded("torch.distributed", "DistError")) or "gloo" in said:
        return (
            f"the connection to another rank is lost ({first_line(said)}); its own last message gives the reason. "
            "A run that has saved a checkpoint resumes from it with the same --run.id and --ckpt_path auto"
        )
    if said.startswith("Error(s) in loading state_dict"):
        return (
            "the checkpoint is of another network than module.network; the config.yaml of its run has the one it was "
            f"trained with ({first_line(said.partition(chr(10))[2])})"
        )
    return None


@contextmanager
def refusals(where: str, given: Mapping[str, Any], kinds: tuple[type[BaseException], ...] = REFUSALS) -> Iterator[None]:
    """Turn what a library refuses within this block into a `ConfigError`.

    Only an exception that passed through no code of this package but constructors is a refusal; any other is a defect
    of ours. `given` maps the keys below `where` to their values: the key that the library names is named.
    """
    try:
        yield
    except UserError:
        raise
    except (*kinds, *_loaded("lightning.fabric.utilities.exceptions", "MisconfigurationException")) as error:
        if _is_ours(error.__traceback__):
            raise
        said = first_line(str(error))
        keys = [key for key in sorted(given, key=len, reverse=True) if given[key] is not None]
        named = [key for key in keys if key in said] or [key for key in keys if _quotes(said, given[key])]
        key = f"{where}.{named[0]}={given[named[0]]}" if named else where
        built = _built(error.__traceback__)
        raise ConfigError(": ".join(filter(None, [key, built, said]))) from error


@contextmanager
def restoring(path: Path | None) -> Iterator[None]:
    """Turn what Lightning raises while it restores a checkpoint of other content than it wrote into a sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        files = [Path(frame.filename).name for frame in extract_tb(error.__traceback__)]
        if path is None or _RESTORES not in files or explain(error) is not None:
            raise
        reason = first_line(str(error.args[0] if isinstance(error, KeyError) and error.args else error))
        raise CheckpointError(f"{path}: cannot be used ({type(error).__name__}: {reason})") from error


def _quotes(said: str, value: Any) -> bool:
    return isinstance(value, str) and f"'{value}'" in said


def _is_ours(frames: TracebackType | None) -> bool:
    """Return whether the error was raised in or through code of this package, but for the calls of this folder.

    What a library raises in the `__init__` of its class that one of ours extends or holds is about the user's value.
    """
    calls = [(Path(frame.filename), frame.name) for frame in extract_tb(frames)]
    ours = [(file, name) for file, name in calls if file.is_relative_to(PACKAGE)]
    through = any(not file.is_relative_to(PACKAGE / "cli") and name != "__init__" for file, name in ours)
    return through or calls[-1] in ours


def _built(frames: TracebackType | None) -> str | None:
    """Return the name of the class that was being constructed, unless it is one of Lightning's trainer."""
    for frame, _ in walk_tb(frames):
        self = frame.f_locals.get("self")
        module = type(self).__module__.partition(".")[0]
        if frame.f_code.co_name == "__init__" and module not in ("raum_lightning", "lightning", "jsonargparse"):
            return type(self).__name__
    return None


def made(frames: TracebackType | None) -> list[str]:
    """Return the names of the classes that were being constructed."""
    return [
        type(frame.f_locals["self"]).__name__
        for frame, _ in walk_tb(frames)
        if frame.f_code.co_name in ("__init__", "__post_init__") and "self" in frame.f_locals
    ]


def first_line(text: str) -> str:
    """Return the first line of a message without its full stop, cut where it is long."""
    line = text.strip().partition("\n")[0].rstrip(".")
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def located(text: str) -> str:
    """Return `text` with rank and host before it, where there is more than one rank."""
    world = os.environ.get("SLURM_NTASKS") or os.environ.get("WORLD_SIZE") or str(RANKS["world"])
    rank = os.environ.get("SLURM_PROCID") or os.environ.get("RANK") or os.environ.get("LOCAL_RANK", "0")
    return text if world == "1" else f"rank {rank} on {socket.gethostname()}: {text}"


def _loaded(module: str, name: str) -> tuple[type[BaseException], ...]:
    """Return the named class for `isinstance` and `except`; nothing where its module was never imported."""
    return (getattr(sys.modules[module], name),) if module in sys.modules else ()
