"""A network under `torch.compile`, in place: the names of its tensors, and so its checkpoints, stay as they are."""

import os
import shutil
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from raum_lightning.errors import ConfigError

Network = Callable[[Tensor], Tensor]
Report = Callable[[str], None]


def compile_network(network: nn.Module, *, report: Report = print) -> None:
    """Have the network compiled when it is first called, and tell `report` where to and how long each pass took.

    Shapes are taken as fixed: each other batch size is compiled again, which `in_batches_of` avoids. What was compiled
    is kept in the folder TORCHINDUCTOR_CACHE_DIR, which ranks and runs share. Does nothing to a network that is
    compiled already. Raises `ValueError` where there is no C++ compiler.
    """
    if network._compiled_call_impl is not None:
        return
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if not shutil.which(compiler):
        raise ConfigError(
            f"torch.compile needs a C++ compiler and {compiler} is not installed: install it, name another in "
            "the environment variable CXX, or do not ask for compile"
        )
    report(f"the network is compiled when first used; cache: {cache_dir()} (TORCHINDUCTOR_CACHE_DIR)")
    _watch(type(network).__name__, report)
    network.compile(dynamic=False)


def in_batches_of(size: int, network: Network) -> Network:
    """The network as it always sees `size` images: zeros make up for missing ones, and their logits are dropped."""

    def padded(images: Tensor) -> Tensor:
        missing = size - len(images)
        if missing <= 0:
            return network(images)
        filling = images.new_zeros(missing, *images.shape[1:])
        return network(torch.cat([images, filling]))[: len(images)]

    return padded


def _watch(name: str, report: Report) -> None:
    """Reports each compilation of the process from now on; the watcher before is dismissed."""
    from torch._dynamo.callback import CallbackTrigger, callback_handler

    started = 0.0

    def start(_: Any) -> None:
        nonlocal started
        started = perf_counter()

    def end(event: Any) -> None:
        part = "backward" if event.callback_trigger == CallbackTrigger.LAZY_BACKWARD else "forward"
        report(f"{name}: {part} pass compiled in {perf_counter() - started:.1f} s")

    for callbacks, callback in ((callback_handler.start_callbacks, start), (callback_handler.end_callbacks, end)):
        callbacks[:] = [other for other in callbacks if getattr(other, "__module__", "") != __name__] + [callback]
