"""Weights in formats of other programs, for `module.init_from`: by other names, or by a class of one's own.

A class of one's own inherits from `Converter`, and its path stands in the configuration:

    module:
      init_from:
        class_path: my_formats.OfOurLab
        init_args: {path: network.pth}
"""

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from raum_lightning.errors import ConfigError
from raum_lightning.inference.weights import Converter, Weights, read_weights

__all__ = ["Converter", "Renamed", "Weights", "read_weights"]


class Renamed(Converter):
    r"""Weights by the names that another program gave them.

    Args:
        path: File, as for `module.init_from`.
        names: Regular expressions and what takes the place of what they match in a tensor's name, in this order, such
            as `{"^encoder\.": "vit."}`; a group is written as \1.
        modalities: What its input channels are, where the file does not say.

    Raises:
        ConfigError: An expression is none, changes no name, or gives two tensors one name.
    """

    def __init__(self, path: Path | str, names: dict[str, str], modalities: Sequence[str] | None = None) -> None:
        self.path, self.names, self.modalities = path, names, modalities

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> Weights:
        """Return the weights by their new names."""
        weights = read_weights(self.path)
        renamed: dict[str, Tensor] = {}
        unused = {*self.names}
        for name, tensor in weights.tensors.items():
            new = name
            for expression in self.names:
                before, new = new, self._replaced(expression, new)
                unused -= {expression} if new != before else set()
            if new in renamed:
                raise ConfigError(f"names: {new} would be the name of two tensors, one of them {name}")
            renamed[new] = tensor
        if unused:
            known = ", ".join([*weights.tensors][:3])
            raise ConfigError(f"names: {min(unused)} changes no name of a tensor, such as {known}")
        return weights.replace(tensors=renamed, modalities=self.modalities)

    def _replaced(self, expression: str, name: str) -> str:
        new = self.names[expression]
        try:
            return re.sub(expression, new, name)
        except (re.error, IndexError) as error:
            raise ConfigError(f"names: {expression}: {new} cannot be used ({error})") from error
