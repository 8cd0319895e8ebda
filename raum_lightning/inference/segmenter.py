"""Cases from their files to a mask on their own grid, with nothing but a checkpoint or an export.

import raum_lightning
segmenter = raum_lightning.load("runs/unetr/1/checkpoints/best.ckpt")
segmenter.segment("BraTS20_Training_001").save("seg.nii.gz")
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raum_lightning.atomic import expanded
from raum_lightning.cases.case import Case
from raum_lightning.errors import CheckpointError, ConfigError
from raum_lightning.geometry import Frame, voxel_size
from raum_lightning.inference.blending import Network
from raum_lightning.inference.card import ModelCard
from raum_lightning.inference.compiling import compile_network, in_batches_of
from raum_lightning.inference.devices import find_device, find_dtype
from raum_lightning.inference.ensemble import LOOSE, Member, check_alike, open_members
from raum_lightning.inference.framed import Grid, Prediction, read_framed
from raum_lightning.inference.hub import local
from raum_lightning.inference.loading import TrainedNetwork
from raum_lightning.inference.segmentation import Segmentation
from raum_lightning.inference.sliding_window import average, check_finite
from raum_lightning.inference.sources import Source, find
from raum_lightning.inference.windows import Visit, plan
from raum_lightning.machine import give_back_memory, keep_memory
from raum_lightning.models.accelerate import accelerate
from raum_lightning.postprocess import Postprocess, clean

Progress = Callable[[int, int], None]


class Segmenter:
    """Networks, one or an ensemble whose probabilities are averaged, and what they need to know of a case.

    Args:
        networks: Each maps windows N C x y z to logits N K x y z.
        card: What they are and were trained on, the same for all.
        dataset: Whose label values are written, by name or YAML file; where not given the case's own, or the training
            cases' where it is not recognised.
        device: auto (CUDA where there is a GPU), cpu, cuda, mps (Apple) or any other of torch's.
        precision: 32-true, bf16-mixed, 16-mixed, or auto: bf16 on a GPU that has it.
        flips: Mirrored copies that test-time augmentation averages, 1, 2, 4 or 8; as the card says where not given.
        overlap: Shared fraction of adjacent windows, in [0, 1); as the card says where not given.
        compile: Run the networks under `torch.compile`: it takes minutes, which pays off for many cases.
        postprocess: YAML file of `raum postprocess fit` by which masks are cleaned, or none; as the card says where not
            given. Probabilities stay as they are.

    Raises:
        ConfigError: A setting cannot be used; the message names it.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        card: ModelCard,
        *,
        dataset: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        flips: int | None = None,
        overlap: float | None = None,
        compile: bool = False,
        postprocess: Path | str | None = None,
    ) -> None:
        self.steps = _steps(postprocess, card)
        self.steps.check(card.regions)
        self.card = replace(
            card,
            flips=card.flips if flips is None else flips,
            overlap=card.overlap if overlap is None else overlap,
        )
        self.card.labelling(None, dataset)  # raises for one that cannot be written
        self.dataset = dataset
        self.device = find_device(device)
        self.dtype = find_dtype(precision, self.device)
        if self.device.type == "cpu":
            keep_memory()
        if compile and any(isinstance(network, Member) for network in networks):
            raise ConfigError("compile=True needs networks that stay in memory, which those of an ensemble file do not")
        self.networks = [network.to(self.device).eval() for network in networks]
        self.compiles = compile
        for network in self.networks:
            accelerate(network, self.device.type, compiled=compile)
            if compile:
                compile_network(network)

    def __repr__(self) -> str:
        count, flips = len(self.networks), self.card.flips
        networks = type(self.networks[0]).__name__ if count == 1 else f"{count} networks"
        return f"<Segmenter: {networks} on {self.device}, {flips} flip{'s' * (flips > 1)}; {self.card!r}>"

    def segment(self, source: Source, *, progress: Progress | None = None) -> Segmentation:
        """Return the segmentation of one case; `progress` is told (windows done, of).

        `source` is a case's folder, a 4-D file listed in the dataset.json of MSD Task01, or a file for each modality.
        Raises `CaseError` where a modality cannot be read, lies on another grid than the first, or is missing and the
        network has not learnt to do without it.
        """
        case = find(source, self.dataset, self.card.trained_on)
        grid, visit = self._read(case)
        values, box = self._infer(visit, progress), visit.box
        del visit
        prediction = Prediction(grid, values, box, self.card.mode, self.card.region_indices)
        data_set = self.card.labelling(case.dataset, self.dataset)
        labels = clean(
            prediction.labels(self.steps.threshold), self.steps, voxel_size(grid.affine), self.card.region_indices
        )
        return Segmentation(case, labels, data_set, self.card, prediction)

    def modalities_of(self, case: Case) -> tuple[str, ...]:
        """Return what a case has of the network's modalities; raise `CaseError` where it lacks one that is needed."""
        card = self.card
        present = tuple(name for name in card.modalities if name in case.images)
        needed = [name for name in card.modalities if name in present or name not in card.may_lack]
        case.files(needed if present else card.modalities)
        return present

    def _read(self, case: Case) -> tuple[Grid, Visit]:
        card = self.card
        self.modalities_of(case)
        grid, image, brain = read_framed(case, card.modalities, Frame(card.orientation, card.spacing), card.fill_absent)
        tensors = [torch.from_numpy(array).to(self.device) for array in (image, brain)]
        give_back_memory()
        return grid, plan(tensors[0], roi_size=card.roi_size, overlap=card.overlap, brain=tensors[1])

    def _infer(self, visit: Visit, progress: Progress | None) -> torch.Tensor:
        """Return the probabilities K x y z in the box of the brain."""
        card = self.card
        total = len(visit.starts) * card.flips * len(self.networks)
        count = _Counter(progress, total, len(card.channels))
        networks = [count.watch(self._whole_batches(network)) for network in self.networks]
        mixed = self.dtype != torch.float32
        # not inference_mode, in which autocast would cast the weights again for each window
        with torch.no_grad(), torch.autocast(self.device.type, self.dtype, enabled=mixed):
            values = average(
                visit,
                networks,
                mode=card.mode,
                flips=card.flips,
                roi_size=card.roi_size,
                batch_size=card.sw_batch_size,
            )
        try:
            check_finite(values)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error} with precision {self.dtype}; give --precision 32-true, and where it does the same, other "
                "weights"
            ) from None
        return values.cpu()

    def _whole_batches(self, network: nn.Module) -> Network:
        return in_batches_of(self.card.sw_batch_size, network) if self.compiles else network


def load(
    checkpoint: Path | str | Sequence[Path | str],
    *,
    trust: Iterable[str] = (),
    trust_code: bool = False,
    network: nn.Module | None = None,
    **settings: Any,
) -> Segmenter:
    """Return a segmenter from a checkpoint of `raum fit` or a file of `raum export`, or an ensemble from several.

    Args:
        checkpoint: A checkpoint, or a file that ends in .safetensors (also of `raum ensemble`), .onnx or .pt2; or
            several. `hf://organisation/name` and `hf://organisation/name/file` name *.safetensors on the hub.
        trust: Modules whose classes the files may name, besides those of this package and MONAI.
        trust_code: Open a .pt2, which can run any code.
        network: Takes the weights of a checkpoint that does not say how its network is made.
        **settings: Those of `Segmenter`.

    Raises:
        CheckpointError: A file is no such checkpoint, names code that is not trusted, or differs from the others of the
            ensemble in more than its weights and network.
        ExportError: A file is no export.
    """
    paths = [local(one) for one in ([checkpoint] if isinstance(checkpoint, (Path, str)) else checkpoint)]
    if network is not None and len(paths) > 1:
        raise ConfigError(f"network takes the weights of one checkpoint, not of {len(paths)}")
    trust = (trust,) if isinstance(trust, str) else tuple(trust)
    members: list[TrainedNetwork] = []
    for path in paths:
        for member in open_members(path, trust=trust, trust_code=trust_code, network=network):
            check_alike(paths[0], (members or [member])[0].card, path, member.card, LOOSE)
            members.append(member)
    return Segmenter([member.network for member in members], members[0].card, **settings)


def _steps(given: Path | str | None, card: ModelCard) -> Postprocess:
    if given is None:
        return Postprocess.of(card.postprocess or {}, "the model card's postprocess")
    return Postprocess() if str(given) == "none" else Postprocess.read(expanded(given))


class _Counter:
    """Tells how many windows of `total` networks have seen, and checks that they return `channels`."""

    def __init__(self, progress: Progress | None, total: int, channels: int) -> None:
        self.progress, self.total, self.channels, self.done = progress, total, channels, 0

    def watch(self, network: Network) -> Network:
        """Return the network, watched."""

        def watched(windows: torch.Tensor) -> torch.Tensor:
            output = network(windows)
            if output.shape[1] != self.channels:
                raise CheckpointError(
                    f"the network returns {output.shape[1]} channels where its model card names {self.channels}"
                )
            self.done += len(windows)
            if self.progress:
                self.progress(self.done, self.total)
            return output

        return watched
