"""On which device a network runs, and in which precision."""

import torch

from raum_lightning.errors import ConfigError

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def find_device(name: str) -> torch.device:
    """Return the device called `name`, of auto the GPU where there is one; raise `ConfigError` if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={name}: there is no GPU that this torch ({torch.__version__}) can use; try cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(
            f"device=mps: this machine has no Apple GPU that this torch ({torch.__version__}) can use; try cpu"
        )
    return torch.device(name)


def find_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the type that autocast computes in, of auto the one for the device; raise `ConfigError` for no such."""
    if precision == "auto":
        precision = "bf16-mixed" if device.type == "cuda" and _has_bf16() else "32-true"
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision!r} is none of auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]


def _has_bf16() -> bool:
    # emulated, as on a T4, it is slower than float32
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))
