"""Cases from their files to a mask on their own grid, with nothing but a checkpoint.

    import raum_lightning
    segmenter = raum_lightning.load("runs/unetr/1/checkpoints/best.ckpt")
    segmenter.segment("BraTS20_Training_001").save("seg.nii.gz")

A checkpoint of `lightning fit` knows how its network is made and what cases it was trained on (see
`BratsDataModule.described`): the modalities, their order, the frame in which the arrays lie, and the label values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raum_lightning.allocator import keep_memory
from raum_lightning.cases.case import Case, write_mask
from raum_lightning.cases.discovery import find_case, find_cases
from raum_lightning.cases.nifti import stem, write_like
from raum_lightning.data.normalise import normalise
from raum_lightning.errors import CaseError, CheckpointError, ConfigError
from raum_lightning.geometry import Frame, Resampler, bounding_box, brain_mask
from raum_lightning.inference.compiling import compile_network, in_batches_of
from raum_lightning.inference.export import Exported, is_export, read
from raum_lightning.inference.sliding_window import Network, count_windows, probabilities
from raum_lightning.labels import CLASSES, EDITIONS, REGIONS, Edition, classify, in_classes
from raum_lightning.models.cpu import accelerate
from raum_lightning.module import SegmentationModule
from raum_lightning.runs.checkpoints import verify

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}

Progress = Callable[[int, int], None]
# a folder, a file that dataset.json of MSD Task01 lists, or the file of each modality
Source = Case | Path | str | Mapping[str, Path | str]


@dataclass(frozen=True)
class Segmentation:
    """What a network says of a case, on the grid of its files.

    `labels` are class indices X Y Z, `probabilities` K X Y Z in [0, 1] are called `channels`: the classes with
    background, or the regions WT, TC and ET. Files get the geometry and header of `modality` and the label values of
    the case's edition.
    """

    case: Case
    modality: str
    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    channels: tuple[str, ...]
    voxel_ml: float

    def save(self, path: Path | str) -> None:
        """Writes the mask; the file appears whole or not at all."""
        write_mask(Path(path), self.labels, self.case, self.modality)

    def save_probabilities(self, path: Path | str) -> None:
        """Writes X Y Z K, float32; the header's description names the channels."""
        description = f"raum probabilities: {' '.join(self.channels)}"
        write_like(Path(path), np.moveaxis(self.probabilities, 0, -1), self.case.images[self.modality], description)

    @property
    def volumes(self) -> dict[str, float]:
        """Of WT, TC and ET, in ml."""
        sizes = {name: np.count_nonzero(in_classes(self.labels, classes)) for name, classes in REGIONS.items()}
        return {name: float(size) * self.voxel_ml for name, size in sizes.items()}


class Segmenter:
    """Networks, one or an ensemble whose probabilities are averaged, and what they need to know of a case.

    Args:
        modules: The networks with their windows and `mode`, which must be the same for all.
        described: What they were trained on, as `BratsDataModule.described` gives it.
        edition: Whose label values are written; that of the training cases where not given.
        device: auto (a GPU where there is one), cpu, cuda or any other of torch's.
        precision: 32-true, bf16-mixed, or auto: bf16 on a GPU that has it.
        flips: Mirrored readings that are averaged, 1, 2, 4 or 8; as the module says where not given.
        overlap: Shared fraction of adjacent windows, in [0, 1); as the module says where not given.
        compile: Run the networks under `torch.compile`: worth its minutes for many cases.
    """

    def __init__(
        self,
        modules: Sequence[SegmentationModule | Exported],
        described: Mapping[str, Any],
        *,
        edition: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        flips: int | None = None,
        overlap: float | None = None,
        compile: bool = False,
    ) -> None:
        first = modules[0]
        self.device = _device(device)
        self.dtype = _dtype(precision, self.device)
        if self.device.type == "cpu":
            keep_memory()
        self.networks = [module.network.to(self.device).eval() for module in modules]
        self.compiles = compile
        for network in self.networks:
            accelerate(network, enabled=self.device.type == "cpu" and not compile)
            if compile:
                compile_network(network)
        self.mode = first.mode
        self.flips = flips or first.flips
        self.windows: dict[str, Any] = first.windows | ({} if overlap is None else {"overlap": overlap})
        self.modalities = tuple(described["modalities"])
        self.frame = Frame(described["orientation"], tuple(described["spacing"]))
        self.edition = _edition(edition, EDITIONS[described["edition"]], self.mode)

    def segment(self, source: Source, *, progress: Progress | None = None) -> Segmentation:
        """The segmentation of one case; `progress` is told (windows done, of).

        `source` is a case's folder, a 4-D file listed in the dataset.json of MSD Task01, or a file for each modality.
        Raises `CaseError` where a modality is missing, cannot be read, or lies on another grid than the first.
        """
        case = find(source)
        if case.edition.name != self.edition.name:
            case = replace(case, edition=self.edition)
        image, affine = case.read(self.modalities)
        values = self._probabilities(torch.from_numpy(image), affine, progress)
        # classify asks for the largest channel or for the positive ones: the shift makes 0.5 the bound of both
        labels = classify(values[None] - 0.5, self.mode)[0].numpy()
        channels = tuple(REGIONS) if self.mode == "regions" else CLASSES[: len(values)]
        voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
        return Segmentation(case, self.modalities[0], labels, values.numpy(), channels, voxel_ml)

    def _probabilities(self, image: torch.Tensor, affine: NDArray[Any], progress: Progress | None) -> torch.Tensor:
        """K X Y Z on the grid of the case's image C X Y Z; certain background where it has no signal."""
        brain = brain_mask(image)
        box = bounding_box(brain)
        resampler = Resampler(self.frame, brain[box].shape, affine)
        normalised, crop = normalise(resampler.to_frame(image[:, *box]).numpy())
        inside = self._infer(torch.from_numpy(normalised)[None].to(self.device, torch.float32), progress)[0].cpu()
        background = torch.zeros(len(inside), 1, 1, 1)
        background[0] = self.mode == "labels"
        framed, values = background.repeat(1, *resampler.shape), background.repeat(1, *brain.shape)
        framed[:, *crop] = inside
        values[:, *box] = torch.where(brain[box], resampler.from_frame(framed), background)
        return values

    def _infer(self, image: torch.Tensor, progress: Progress | None) -> torch.Tensor:
        counted = {key: self.windows[key] for key in ("roi_size", "overlap")}
        total = count_windows(image, **counted) * self.flips * len(self.networks)
        networks: list[Network] = [*self.networks]
        if self.compiles:
            networks = [in_batches_of(self.windows["batch_size"], network) for network in networks]
        if progress:
            tick = _Counter(progress, total)
            networks = [partial(tick, network) for network in networks]
        mixed = self.dtype != torch.float32
        # not inference_mode, in which autocast would cast the weights again for each window
        with torch.no_grad(), torch.autocast(self.device.type, self.dtype, enabled=mixed):
            return probabilities(image, networks, mode=self.mode, flips=self.flips, **self.windows)


def load(checkpoint: Path | str | Sequence[Path | str], **settings: Any) -> Segmenter:
    """A segmenter from a checkpoint of `lightning fit`, or an ensemble from several.

    Exports of `raum export`, .onnx and .pt2, stand in for checkpoints. `settings` are those of `Segmenter`. Raises
    `CheckpointError` for files that are no such checkpoints and for ensembles whose members differ in more than their
    weights and networks.
    """
    paths = [Path(one) for one in ([checkpoint] if isinstance(checkpoint, (Path, str)) else checkpoint)]
    members = [_open(path) for path in paths]
    modules, described = [module for module, _ in members], members[0][1]
    for path, (module, other) in zip(paths[1:], members[1:], strict=True):
        ours = {**described, "mode": modules[0].mode, "roi_size": modules[0].windows["roi_size"]}
        theirs = {**other, "mode": module.mode, "roi_size": module.windows["roi_size"]}
        if different := [key for key in ours if not _alike(ours[key], theirs[key])]:
            key = different[0]
            raise CheckpointError(
                f"{path}: {key} {theirs[key]} differs from {ours[key]} of {paths[0]}; an ensemble needs the same"
            )
    return Segmenter(modules, described, **settings)


def find(source: Source) -> Case:
    """The case that `source` names; raises `CaseError` where there is none."""
    if isinstance(source, Case):
        return source
    if isinstance(source, Mapping):
        images = {modality: Path(path) for modality, path in source.items()}
        return Case(stem(next(iter(images.values()))) or "case", EDITIONS["brats2020"], images)
    path = Path(source).expanduser()
    if not path.is_file():
        return find_case(path)
    root = next((folder for folder in path.parents if (folder / "dataset.json").is_file()), None)
    for case in find_cases(root) if root else ():
        if path.resolve() in {image.resolve() for image in case.images.values()}:
            return case
    raise CaseError(f"{path}: is not an image that a dataset.json above it lists; give its folder or its modalities")


def _open(path: Path) -> tuple[SegmentationModule | Exported, Mapping[str, Any]]:
    if is_export(path):
        exported = read(path)
        return exported, exported.about.case
    verify(path)
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(content, dict) or "network" not in content.get("hyper_parameters", {}):
        raise CheckpointError(f"{path}: is not a checkpoint of `lightning fit`, which says how its network is made")
    if "case" not in content:
        raise CheckpointError(
            f"{path}: does not say what cases it was trained on, as older versions did not; "
            "continue its run with `lightning fit --ckpt_path` for a step"
        )
    return SegmentationModule.load_from_checkpoint(path, map_location="cpu", weights_only=True), content["case"]


def _alike(one: Any, other: Any) -> bool:
    """Equal, or voxel sizes that differ by less than 1 %."""
    if isinstance(one, list) and isinstance(one[0], float):
        return bool(np.allclose(one, other, rtol=0.01))
    return bool(one == other)


def _edition(wanted: str | None, trained: Edition, mode: str) -> Edition:
    if wanted is None:
        return trained
    if wanted not in EDITIONS:
        raise CheckpointError(f"edition {wanted!r} is unknown; it is one of {', '.join(EDITIONS)}")
    edition = EDITIONS[wanted]
    if mode == "labels" and edition.num_classes < trained.num_classes:
        missing = ", ".join(CLASSES[edition.num_classes : trained.num_classes])
        raise CheckpointError(f"{wanted} has no label for {missing}, which a network of {trained.name} segments")
    return edition


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={name}: there is no GPU that this torch ({torch.__version__}) can use; try cpu")
    return torch.device(name)


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == "auto":
        precision = "bf16-mixed" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "32-true"
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision!r} is none of auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]


class _Counter:
    """Passes windows on to a network and tells how many of `total` it has seen."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, network: Network, windows: torch.Tensor) -> torch.Tensor:
        output = network(windows)
        self.done += len(windows)
        self.progress(self.done, self.total)
        return output
