"""Small networks, and their gradients of a loss without symmetries."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from raum_lightning.models import UNETR, UNETRV2

Network = TypeVar("Network", bound=nn.Module)

SMALL: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 3,
    "mlp_dim": 48,
    "out_indices": (1, 2, 4),
    "feature_size": 8,
}

MODERN: dict[str, Any] = {
    "stem": "conv",
    "stem_size": 4,
    "skips": "stem",
    "position": "rope",
    "mlp": "swiglu",
    "layer_scale": 0.1,
    "qk_norm": True,
    "deep_supervision": True,
    "norm": "instance_affine",
}


def small(**changes: Any) -> UNETR:
    """A UNETR for three channels of 16^3."""
    torch.manual_seed(0)
    return UNETR(**(SMALL | changes))


def modern(**changes: Any) -> UNETRV2:
    """A UNETRV2 for the same; all its parts by `MODERN`."""
    torch.manual_seed(0)
    return UNETRV2(**({key: value for key, value in SMALL.items() if key != "mlp_dim"} | changes))


def image_for(network: UNETR | UNETRV2, dtype: torch.dtype = torch.float32) -> Tensor:
    """Two images of noise."""
    return torch.randn(2, network.in_channels, *network.img_size, dtype=dtype)


def perturbed(network: Network) -> Network:
    """In float64, and without weights that are all ones or zeros."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.rand_like(parameter), alpha=0.1)
    return network.double()


def gradients(network: nn.Module, image: Tensor) -> tuple[Any, Any, dict[str, Any]]:
    """Logits (one tensor or several), and the gradients of image and parameters."""
    image = image.clone().requires_grad_()
    logits = network(image)
    several = logits if isinstance(logits, tuple) else (logits,)
    sum((one * torch.linspace(-1, 1, one.numel(), dtype=one.dtype).view_as(one)).sum() for one in several).backward()
    detached = tuple(one.detach() for one in several)
    grads = {name: parameter.grad for name, parameter in network.named_parameters()}
    return (detached if isinstance(logits, tuple) else detached[0]), image.grad, grads
