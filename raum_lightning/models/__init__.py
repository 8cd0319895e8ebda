"""Networks: pure `nn.Module`s that know nothing of Lightning."""

from raum_lightning.models.unetr import UNETR

__all__ = ["UNETR"]
