"""Replace transformer blocks of a network by the identity, to measure what they add.

Hybrids of transformer and U-Net can score as well when their transformer does nothing (Wald et al., "Primus",
arXiv:2503.01835).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from raum_lightning.errors import ConfigError


class Unchanged(nn.Module):
    """The identity, in place of a block."""

    def forward(self, tokens: Tensor, *others: Any) -> Tensor:
        """Tokens, B N E, to themselves."""
        return tokens


def transformer_blocks(network: nn.Module) -> nn.ModuleList:
    """Return the blocks of a UNETR, UNETRV2 or MONAI's UNETR; raise `ConfigError` for a network that has none."""
    blocks = getattr(getattr(network, "vit", None), "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise ConfigError(
            f"{type(network).__name__} has no transformer blocks as `vit.blocks`: give a checkpoint or *.safetensors "
            "of a UNETR or UNETRV2"
        )
    return blocks


@contextmanager
def without_blocks(network: nn.Module, indices: Iterable[int]) -> Iterator[None]:
    """Replace blocks, counted from 0, by the identity for as long as the context lasts."""
    blocks = transformer_blocks(network)
    taken = {index: blocks[index] for index in indices}
    for index in taken:
        blocks[index] = Unchanged()
    try:
        yield
    finally:
        for index, block in taken.items():
            blocks[index] = block
