"""Networks that can say how they were made."""

from typing import Any, Self

from torch import nn


class Described(nn.Module):
    """A network that keeps the arguments it was made with, so that a checkpoint can say how to make it again.

    They are given by keyword, and plain values.
    """

    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **arguments: Any) -> Self:
        """Keep the arguments before `__init__` sees them."""
        network = super().__new__(cls)
        network.__dict__["_arguments"] = {} if args else arguments
        return network

    @property
    def spec(self) -> dict[str, Any]:
        """The network as `{class_path, init_args}`."""
        cls = type(self)
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": dict(self._arguments)}
