"""Run the constructor that an untrusted file names within bounds: on memory, and without files or processes."""

import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.machinery import all_suffixes
from threading import local
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


class TooLargeError(Exception):
    """A network asks for more than its weights hold."""


class Sketch(TorchDispatchMode):  # type: ignore[no-untyped-call] # a method of torch
    """Within it large new tensors have a shape and no memory, and there is a bound on all of them together.

    `torch.device("meta")` would do it for small ones too, whose values constructors ask for (`linspace(...).item()`).

    Args:
        elements: Numbers that all new tensors may have together.
        calls: Operations that there may be.
    """

    SMALL = 1 << 16

    def __init__(self, *, elements: int, calls: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements, self.calls = elements + (1 << 20), calls + 10_000

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.calls -= 1
        options = dict(kwargs or {})
        known = {argument.name for argument in func._schema.arguments} - {"generator"}
        meta = options | {"device": torch.device("meta"), "pin_memory": False}
        elsewhere = {name: value for name, value in meta.items() if name in known}
        given = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor)]
        if any(tensor.is_meta for tensor in given):
            return self._counted(func, func(*args, **elsewhere))
        try:
            sketch = func(*_without_values(args), **_without_values(elsewhere))
        except (NotImplementedError, RuntimeError):  # whose size follows from values, such as `nonzero`
            return func(*args, **options)
        self._counted(func, sketch)
        large = any(tensor.numel() > self.SMALL for tensor in tree_leaves(sketch) if isinstance(tensor, Tensor))
        return sketch if large else func(*args, **options)

    def _counted(self, func: Any, result: Any) -> Any:
        if not (func._schema.is_mutable or func.is_view):
            self.elements -= sum(one.numel() for one in tree_leaves(result) if isinstance(one, Tensor))
        if min(self.elements, self.calls) < 0:
            raise TooLargeError("it asks for more than its weights hold")
        return result


def _without_values(value: Any) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.to("meta"), value)


# what no constructor of a network has to do, by the names of Python's audit events
_REFUSED = (
    *("socket.", "subprocess.", "urllib.", "ftplib.", "http.", "smtplib.", "os.system", "os.exec", "os.spawn"),
    *("os.posix_spawn", "os.fork", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink"),
    *("os.truncate", "os.chmod", "os.chown", "shutil.", "tempfile.", "ctypes.dlopen"),
)
_LIBRARIES = tuple({os.path.realpath(path) + os.sep for path in sysconfig.get_paths().values()})
_STATE = local()


class ConfinedError(PermissionError):
    """A constructor has tried what it must not."""


@contextmanager
def confined() -> Iterator[None]:
    """Within the block, this thread opens no file but those of Python's libraries, writes none, and starts nothing.

    Raises:
        ConfinedError: At the place that tries to, which may go on without.
    """
    _hook()
    before, _STATE.confined = getattr(_STATE, "confined", False), True
    try:
        yield
    finally:
        _STATE.confined = before


@cache
def _hook() -> None:
    """Listen to what happens in this process, once: Python takes no hook away again."""
    # torch imports it with the first network that is made, and it asks for a folder for temporary files
    import_module("torch._dynamo")
    sys.addaudithook(_audit)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not getattr(_STATE, "confined", False):
        return
    if event.startswith(_REFUSED) or (event == "open" and not _is_library(*args)):
        _STATE.confined = False  # what the sentence needs may open files
        try:
            raise ConfinedError(f"it tries {event} {str(args[0])[:80] if args else ''}".rstrip())
        finally:
            _STATE.confined = True


def _is_library(path: Any, mode: Any, flags: Any) -> bool:
    """Return whether a file is opened that belongs to Python's libraries, and only to read it."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        return True  # a descriptor that is open already
    if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
        return False
    real = os.path.realpath(os.fsdecode(path))
    return real.startswith((*_LIBRARIES, "/proc/", "/sys/")) or real.endswith(tuple(all_suffixes()))
