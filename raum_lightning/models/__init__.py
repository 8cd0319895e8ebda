"""Networks: pure `nn.Module`s that know nothing of Lightning."""

from raum_lightning.models.unetr import UNETR
from raum_lightning.models.unetr_v2 import UNETRV2

__all__ = ["UNETR", "UNETRV2"]
