"""Dice plus cross-entropy, in one pass over the voxels and with a hand-written gradient.

The loss of UNETR (Hatamizadeh et al., WACV 2022, arXiv:2103.10504), with G the one-hot reference, Y the probabilities,
I voxels and J classes:

    L(G, Y) = 1 - 2/J sum_j [ sum_i G_ij Y_ij / (sum_i G_ij^2 + sum_i Y_ij^2) ] - 1/I sum_i sum_j G_ij log Y_ij

Of the voxels it needs only the sums over i. `_Sums` takes them chunk by chunk, so that reference and probabilities
exist for one chunk at a time, and recomputes a chunk's probabilities for the gradient instead of keeping them. What
follows the sums is ordinary autograd on B x C numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from raum_lightning.datasets import IGNORED, DataSet
from raum_lightning.errors import ConfigError
from raum_lightning.labels import CLASSES, REGIONS, Regions, in_classes

Mode = Literal["labels", "regions"]

# On a CPU a chunk has this many voxels, over the whole batch: its temporaries stay in the cache, and threads need not
# meet too often. On an accelerator it has this many numbers, voxels times channels, of 64 MiB in float32: launching the
# kernels of smaller ones takes longer than what they compute.
_CPU_CHUNK, _ACCELERATOR_CHUNK = 2**16, 2**24


class WithChannel(nn.Module):
    """A loss that takes class indices as B 1 X Y Z, as MONAI's do, in a place where they are B X Y Z.

    Args:
        loss: Called with logits B K X Y Z and class indices B 1 X Y Z, int64; such as monai.losses.DiceCELoss with
            to_onehot_y and softmax.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits B K X Y Z and class indices B X Y Z."""
        value: torch.Tensor = self.loss(logits, labels[:, None])
        return value


class DiceCELoss(nn.Module):
    """Soft Dice with squared denominators plus cross-entropy, each with weight one.

    `mode` "labels": softmax over C classes, background included, and categorical cross-entropy. "regions": the data
    set's regions, WT, TC and ET until `follow` names others, as independent sigmoids, and binary cross-entropy averaged
    over them. Voxels that the data set ignores count in neither term.

    `batch` False: Dice per sample, then the mean over samples. True: its sums run over the batch first, which under DDP
    is the batch of this rank. `across_ranks` extends them to the batches of all ranks, in training only, since ranks
    may validate different numbers of cases; the mean over ranks of its gradients, which DDP takes, is the gradient one
    process would compute on the global batch. Cross-entropy is always a mean over the rank's own voxels.

    `smooth` is added to numerator and denominator: a class absent from reference and prediction has Dice 1.
    """

    def __init__(
        self, *, mode: Mode = "labels", batch: bool = False, across_ranks: bool = False, smooth: float = 1e-5
    ) -> None:
        super().__init__()
        if mode not in ("labels", "regions"):
            raise ConfigError(f"mode={mode!r} is neither 'labels' nor 'regions'")
        if across_ranks and not batch:
            raise ConfigError("across_ranks=True extends the sums of batch=True: set batch=True as well")
        self.mode: Mode = mode
        self.batch = batch
        self.across_ranks = across_ranks
        self.smooth = smooth
        self.regions: Regions = REGIONS
        self.classes = len(CLASSES)
        self.ignores = False
        self._check_range = _RangeCheck()

    def follow(self, dataset: DataSet) -> None:
        """Take regions, the number of classes, and whether voxels are ignored, from a data set."""
        self.regions, self.classes = dataset.regions, dataset.num_classes
        self.ignores = dataset.ignore is not None

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits, B C X Y Z, against class indices, B X Y Z uint8 or int64: a scalar, float32 (float64 for float64).

        Raises ValueError for shapes that do not belong together, for a number of channels other than the regions', and
        for a class index without a channel; see `_RangeCheck` for when the last is noticed.
        """
        channels = logits.shape[1]
        if labels.shape != logits.shape[:1] + logits.shape[2:]:
            raise ConfigError(
                f"labels of shape {tuple(labels.shape)} do not fit logits of {tuple(logits.shape)}, B C X Y Z"
            )
        if self.mode == "regions" and channels != len(self.regions):
            raise ConfigError(
                f"logits have {channels} channels; mode='regions' needs {len(self.regions)}: {', '.join(self.regions)}"
            )
        voxels: int | Tensor = labels.numel()
        if self.ignores:
            voxels = (labels != IGNORED).sum().clamp(min=1)
        self._check_range(
            labels.where(labels != IGNORED, 0) if self.ignores else labels,
            self.classes if self.mode == "regions" else channels,
        )
        sums, log_likelihood = _sums(logits, labels, _Reference(self.mode, tuple(self.regions.values()), self.ignores))
        if self.batch:
            sums = sums.sum(dim=1)
        if self.across_ranks and self.training:
            sums = _sum_over_ranks(sums)
        overlap, energy = sums.unbind()
        dice = (2 * overlap + self.smooth) / (energy + self.smooth)
        terms = voxels * (channels if self.mode == "regions" else 1)
        return 1 - dice.mean() - log_likelihood / terms


def deep_supervision(loss: Callable[[Tensor, Tensor], Tensor], logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return the mean of the losses at several resolutions, each with half the weight of the one before.

    Logits are B K X Y Z, then B K X/2 Y/2 Z/2 and so on; of the labels, B X Y Z, they see every voxel, every second...
    """
    total, weights = labels.new_zeros((), dtype=torch.float32), 0.0
    for depth, one in enumerate(logits):
        x, y, z = (size // coarse for size, coarse in zip(labels.shape[1:], one.shape[2:], strict=True))
        total = total + loss(one, labels[:, ::x, ::y, ::z]) / 2**depth
        weights += 1 / 2**depth
    return total / weights


class _Reference(NamedTuple):
    """How class indices become a reference: `mode`, the classes of each region, and whether some voxels are ignored."""

    mode: Mode
    regions: tuple[tuple[int, ...], ...]
    ignores: bool

    def __call__(self, indices: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
        """Return the reference, B C voxels, of class indices, B voxels; 0 everywhere in voxels that are ignored."""
        if self.mode == "labels":
            return _one_hot(indices, channels, dtype)
        return torch.stack([in_classes(indices, members) for members in self.regions], dim=1).to(dtype)

    def kept(self, indices: Tensor) -> Tensor | None:
        """Return which voxels count, B 1 voxels, where some may not."""
        return (indices != IGNORED).unsqueeze(1) if self.ignores else None


class _Sums(torch.autograd.Function):
    """The sums over voxels of G Y and of G^2 + Y^2, stacked 2 B C, and the log-likelihood, a scalar."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, make: _Reference) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, labels)
        ctx.make = make
        sums, log_likelihood = [], []
        for _, x, reference, kept in _chunks(logits, labels, make):
            if make.mode == "labels":
                log_y = x.log_softmax(dim=1)
                y = log_y.exp()
                log_likelihood.append(log_y.mul_(reference).sum())
            else:
                y = x.sigmoid()
                likelihood = functional.logsigmoid(x * (2 * reference - 1))
                log_likelihood.append((likelihood if kept is None else likelihood * kept).sum())
            if kept is not None:
                y = y * kept
            overlap = (reference * y).sum(dim=2)
            sums.append(torch.stack([overlap, reference.addcmul_(y, y).sum(dim=2)]))  # G^2 = G
        return torch.stack(sums).sum(dim=0), torch.stack(log_likelihood).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits, labels = ctx.saved_tensors
        (d_overlap, d_energy), d_log_likelihood = grads[0].unsqueeze(-1), grads[1]
        d_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
        for here, x, reference, kept in _chunks(logits, labels, ctx.make):
            y = x.softmax(dim=1) if ctx.make.mode == "labels" else x.sigmoid()
            d_x = (y * (2 * d_energy)).addcmul_(reference, d_overlap)  # the gradient at y, then through the activation
            if ctx.make.mode == "labels":
                d_x.sub_((d_x * y).sum(dim=1, keepdim=True)).mul_(y)
            else:
                d_x.mul_(1 - y).mul_(y)
            d_x.addcmul_(reference.sub_(y), d_log_likelihood)
            d_logits.flatten(2)[:, :, here] = d_x if kept is None else d_x * kept
        return d_logits, None, None


_sums: Callable[[Tensor, Tensor, _Reference], tuple[Tensor, Tensor]] = _Sums.apply


def _chunks(logits: Tensor, labels: Tensor, make: _Reference) -> Iterator[tuple[slice, Tensor, Tensor, Tensor | None]]:
    """Yield which voxels, their logits in at least float32 and their reference, both B C voxels, and `kept`."""
    logits, labels = logits.flatten(2), labels.flatten(1)
    channels, voxels = logits.shape[1:]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if torch.compiler.is_compiling():
        size = voxels  # the loop would be unrolled
    elif logits.is_cpu:
        size = max(1, _CPU_CHUNK // len(logits))
    else:
        size = max(1, _ACCELERATOR_CHUNK // (len(logits) * channels))
    for start in range(0, voxels, size):
        here = slice(start, start + size)
        indices = labels[:, here]
        yield here, logits[:, :, here].to(dtype), make(indices, channels, dtype), make.kept(indices)


def _one_hot(indices: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    # floats compared in place, which torch vectorises on a CPU; it does not vectorise a comparison that returns bool
    classes = torch.arange(channels, device=indices.device, dtype=dtype).unsqueeze(-1)
    return (indices.to(dtype).unsqueeze(1) - classes).eq_(0)


class _RangeCheck:
    """Raises for a class index without a channel, without making an accelerator wait in every step.

    On a CPU it looks at once; elsewhere at the first call and then at each hundredth, at all calls in between.
    """

    def __init__(self) -> None:
        self._suspects: list[Tensor] = []
        self._calls_until_look = 1

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch annotates none of it
    def __call__(self, labels: Tensor, classes: int) -> None:
        lowest, highest = torch.aminmax(labels)
        self._suspects.append(torch.where(lowest < 0, lowest, highest))
        if len(self._suspects) < self._calls_until_look:
            return
        self._calls_until_look = _calls_between_looks(labels.device)
        values = torch.stack(self._suspects).tolist()
        self._suspects.clear()
        for value in values:
            if not 0 <= value < classes:
                raise ConfigError(
                    f"class index {value} in the labels is not one of the {classes} classes 0...{classes - 1}: check "
                    "data.dataset and the network's out_channels"
                )


def _calls_between_looks(device: torch.device) -> int:
    return 1 if device.type == "cpu" else 100


def _sum_over_ranks(local: Tensor) -> Tensor:
    """The sum over ranks, with the gradient times the number of ranks: DDP's mean over ranks makes it whole again."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return local
    total = local.detach().clone()
    distributed.all_reduce(total)
    scaled = local * distributed.get_world_size()
    return scaled + (total - scaled).detach()
