"""One made-up patch through network and loss before any case is prepared: what does not fit is said at once.

The network runs on torch's meta device, where tensors have shapes and no values: no memory is taken, no weight is
touched and no random number is drawn. A network that cannot run there is let through, and shows itself in the first
step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from raum_lightning.errors import ConfigError

# strides that networks have in all; the nearest multiples of these are tried where a size does not fit
STRIDES = (2, 4, 8, 16, 32, 64)


def output_channels(
    network: nn.Module, channels: int, sizes: Mapping[str, Sequence[int]], training: Mapping[str, Sequence[int]]
) -> int | str:
    """Return the number of channels that the network puts out, or the reason why that cannot be told on this device.

    Args:
        network: Maps images B C X Y Z to logits B K X Y Z.
        channels: C.
        sizes: Voxels X Y Z of the windows that it will see, by the key that gives them.
        training: The same of the patches that it will be trained on; of several outputs the first counts then.

    Raises:
        ConfigError: It cannot take such patches, or puts out something else than logits of their size.
    """
    found: int | str = "no size is known"
    patches = [(key, size, True) for key, size in training.items()]
    for key, size, train in [*patches, *((key, size, False) for key, size in sizes.items())]:
        outcome = _shape(network, channels, size, train)
        if isinstance(outcome, Exception):
            if _is_of_the_device(outcome):
                return _first_line(outcome)
            raise ConfigError(_misfit(network, channels, key, size, outcome, train)) from outcome
        if not isinstance(outcome, tuple) or len(outcome) != 5 or outcome[2:] != tuple(size):
            shown = " x ".join(map(str, outcome)) if isinstance(outcome, tuple) else outcome
            raise ConfigError(
                f"{type(network).__name__} turns a patch of {_times(size)} voxels ({key}) into {shown}; logits "
                "B K X Y Z of the same size are needed: give a network, or a wrapper around one, that returns these"
            )
        found = outcome[1]
    return found


def check_loss(loss: nn.Module, channels: int, labels: Callable[[Tensor], Tensor]) -> None:
    """Call the loss once with logits of 2 x 3 x 4 voxels; `labels` converts the class indices to what it takes.

    Raises `ConfigError` where it cannot take them or returns no finite number.
    """
    # another number of patches than of channels, or one: by broadcasting a loss would take indices for logits
    size = (channels + 1, 2, 3, 4)
    logits = torch.linspace(-1, 1, channels * math.prod(size)).view(size[0], channels, *size[1:])
    training = loss.training
    loss.eval()
    try:
        value = loss(logits, labels(torch.zeros(size, dtype=torch.uint8)))
        problem = "" if isinstance(value, Tensor) and value.numel() == 1 else f"returns {type(value).__name__}"
    except ConfigError:
        raise
    except Exception as error:
        problem = f"raises {_first_line(error)}"
    finally:
        loss.train(training)
    if problem:
        raise ConfigError(
            f"module.loss {type(loss).__name__} {problem} for logits B K X Y Z of {channels} channels and class "
            "indices B X Y Z; give a loss that takes these and returns one number, or one that wants indices "
            "B 1 X Y Z, as MONAI's, within raum_lightning.losses.WithChannel"
        )


def _shape(network: nn.Module, channels: int, size: Sequence[int], train: bool) -> tuple[int, ...] | str | Exception:
    """Return the output's shape, or its type where it is no tensor, or the exception that was raised."""
    tensors = dict([*network.named_parameters(), *network.named_buffers()])
    weights = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    image = torch.empty(1, channels, *size, device="meta")
    modes = {part: part.training for part in network.modules()}
    network.train(train)
    try:
        with torch.no_grad():
            # tied by name (torch 2.13), a part that is registered twice, as in MONAI's DynUNet, would keep the copies
            output: Any = functional_call(network, weights, (image,), tie_weights=False)
    except Exception as error:  # whatever a network of another library raises
        return error
    finally:
        for part, mode in modes.items():
            part.training = mode
    if train and isinstance(output, tuple):  # deep supervision
        output = output[0]
    return tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__


def _is_of_the_device(error: Exception) -> bool:
    return isinstance(error, NotImplementedError) or "meta" in str(error).lower()


def _misfit(network: nn.Module, channels: int, key: str, size: Sequence[int], error: Exception, train: bool) -> str:
    said = f"{type(network).__name__} cannot take {channels} channels of {_times(size)} voxels ({_first_line(error)})"
    if fitting := _fitting(network, channels, size, train):
        return f"{said}: try {key} {' or '.join(str(list(near)) for near in fitting)}"
    return f"{said}: see data.modalities and {key}, and what module.network takes"


def _fitting(network: nn.Module, channels: int, size: Sequence[int], train: bool) -> list[tuple[int, ...]]:
    """Return the nearest smaller and the nearest larger size that the network takes, of those that are multiples."""
    for stride in STRIDES:
        below = tuple(max(1, n // stride) * stride for n in size)
        nearest = {below, tuple(-(-n // stride) * stride for n in size)}
        taken = [near for near in sorted(nearest) if isinstance(_shape(network, channels, near, train), tuple)]
        if taken:
            return taken
    return []


def _times(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _first_line(error: Exception) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__).rstrip(".")[:160]
