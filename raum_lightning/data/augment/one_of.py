"""TorchIO's `OneOf` as a YAML file can give it: names of transforms and their weights."""

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

import torchio as tio

from raum_lightning.errors import ConfigError


def make_one_of(kind: type[tio.OneOf], *args: Any, **arguments: Any) -> tio.OneOf:
    """Return a `torchio.OneOf` whose `transforms` may map class paths to weights; these transforms keep their defaults.

    Raises:
        ConfigError: A key is not the path of a transform that can be made without arguments.
    """
    transforms = arguments.get("transforms")
    if isinstance(transforms, Mapping):
        arguments["transforms"] = {_made(name): weight for name, weight in transforms.items()}
    return kind(*args, **arguments)


def _made(name: Any) -> tio.Transform:
    try:
        transform = resolve_name(name)() if isinstance(name, str) else name
    except Exception as error:
        raise ConfigError(f"torchio.OneOf: {name} cannot be made ({error}); try torchio.RandomNoise") from None
    if not isinstance(transform, tio.Transform):
        raise ConfigError(f"torchio.OneOf: {name} is no transform; try torchio.RandomNoise")
    return transform


INSTANTIATORS = [(make_one_of, tio.OneOf, False)]
