"""How the maps of a network lie in memory: channels last where the convolutions are faster so."""

from typing import Any

import torch
from torch import Tensor, nn

from raum_lightning.models import decoder, unetr, unetr_v2, vit_v2

# On a CPU, convolutions of few channels in bf16 take down to a third of the time with channels last. On a GPU cuDNN
# computes with channels last only and turns other maps over before and after each convolution.
_CHANNELS_LAST = {"cpu": (torch.bfloat16,), "cuda": (torch.bfloat16, torch.float16)}


def layout_of(dtype: torch.dtype, norm: str, device: str) -> torch.memory_format:
    """Return how maps lie in memory best.

    In float32 nothing is gained, and the gradient of group norm loses more than that.
    """
    last = dtype in _CHANNELS_LAST.get(device, ()) and norm != "group"
    return torch.channels_last_3d if last else torch.contiguous_format


class _Encoding:
    """Mixed into a UNETR: casts the image once, not in each layer that sees it, and chooses the layout of the maps."""

    norm: decoder.NormName

    def encode(self, image: Tensor) -> list[Tensor]:
        """As the network's, in the layout that suits the dtype."""
        device = image.device.type
        casts = device in _CHANNELS_LAST and torch.is_autocast_enabled(device)  # which "meta" cannot be asked
        if casts and image.dtype == torch.float32:
            image = image.to(torch.get_autocast_dtype(device))
        layout = layout_of(image.dtype, self.norm, device)
        sources: list[Tensor] = super().encode(image)  # type: ignore[misc]  # of the network it is mixed into
        return [source.contiguous(memory_format=layout) for source in sources]

    def forward(self, image: Tensor) -> Any:
        """As the network's; logits are contiguous."""
        logits = super().forward(image)  # type: ignore[misc]
        return tuple(one.contiguous() for one in logits) if isinstance(logits, tuple) else logits.contiguous()


class UNETR(_Encoding, unetr.UNETR):
    """`unetr.UNETR` with its maps in the layout that suits their dtype."""


class UNETRV2(_Encoding, unetr_v2.UNETRV2):
    """`unetr_v2.UNETRV2` with its maps in the layout that suits their dtype."""


class Stem(vit_v2.Stem):
    """`vit_v2.Stem` with its maps in the layout that suits their dtype."""

    def forward(self, image: Tensor) -> list[Tensor]:
        """As `vit_v2.Stem`."""
        norm = "group" if any(isinstance(part, nn.GroupNorm) for part in self.modules()) else "other"
        layout = layout_of(image.dtype, norm, image.device.type)
        return super().forward(image.contiguous(memory_format=layout))


FAST: dict[type[nn.Module], type[nn.Module]] = {unetr.UNETR: UNETR, unetr_v2.UNETRV2: UNETRV2, vit_v2.Stem: Stem}
