"""raum: brain tumour segmentation in MRI with a hand-written UNETR, TorchIO patches and PyTorch Lightning."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# loaded when first used, so that `raum --version` does not pay for torch
_PUBLIC = {
    "UNETR": "models",
    "DiceCELoss": "losses",
    "SegmentationModule": "module",
    "BratsDataModule": "data.datamodule",
    "SegmentationMetrics": "metrics",
    "load": "inference.segmenter",
    "show": "notebook",
}
__all__ = [
    "UNETR",
    "BratsDataModule",
    "DiceCELoss",
    "SegmentationMetrics",
    "SegmentationModule",
    "__version__",
    "load",
    "show",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
