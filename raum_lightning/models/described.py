"""Networks that can say how they were made."""

from collections.abc import Sequence
from inspect import Parameter, signature
from typing import Any, Self

from torch import nn

from raum_lightning.errors import ConfigError


class Described(nn.Module):
    """A network that keeps the arguments it was made with, so that a checkpoint can say how to make it again.

    They are plain values, each with a name.

    Raises:
        ConfigError: An argument has none, as those that `*args` takes.
    """

    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **arguments: Any) -> Self:
        """Keep the arguments before `__init__` sees them."""
        network = super().__new__(cls)
        network.__dict__["_arguments"] = _by_name(cls, args) | arguments
        return network

    @property
    def spec(self) -> dict[str, Any]:
        """The network as `{class_path, init_args}`."""
        cls = type(self)
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": dict(self._arguments)}


def _by_name(cls: type[Described], args: Sequence[Any]) -> dict[str, Any]:
    """Return positional arguments by the names that `__init__` has for them."""
    _, *parameters = signature(cls.__init__).parameters.values()
    names = [one.name for one in parameters if one.kind is Parameter.POSITIONAL_OR_KEYWORD]
    if len(args) > len(names):
        raise ConfigError(
            f"{cls.__name__} is given {len(args)} arguments by place and has names for {len(names)}, by which a "
            "checkpoint describes it: give them by keyword"
        )
    return dict(zip(names, args, strict=False))
