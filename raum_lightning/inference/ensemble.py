"""Several trained networks in one file, of which one at a time is in memory.

The file is safetensors, as `raum export` writes it for one network, but its tensors are called `<member>.<name>`, and
its metadata say under `networks` how each member is made. The model card is that of the ensemble. Tensors are written
member by member, the widest numbers first, so that each lies at a multiple of its size, as the format asks.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from raum_lightning.atomic import atomic
from raum_lightning.errors import CheckpointError, ConfigError, ExportError
from raum_lightning.inference.card import ModelCard
from raum_lightning.inference.exported import NETWORKS, SAFETENSORS, count_members, read_safetensors
from raum_lightning.inference.loading import TrainedNetwork, filled, open_network
from raum_lightning.inference.readme import README, readme
from raum_lightning.models.accelerate import accelerate
from raum_lightning.postprocess import Postprocess
from raum_lightning.runs.checkpoints import MODEL_CARD

# what members may differ in that only `raum segment --checkpoint A B` averages
LOOSE = {"dataset", "description"}
# what members of any ensemble may differ in
_FREE = {"overlap", "sw_batch_size", "flips", "training_cases", "scores", "versions", "postprocess", "temperature"}
_FREE |= {"license", "evaluation"}
# of torch's types those that safetensors and weights have
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def check_alike(
    first: Path | str, ours: ModelCard, path: Path | str, theirs: ModelCard, free: Iterable[str] = ()
) -> None:
    """Raise `CheckpointError` where two networks cannot be averaged; voxel sizes may differ by 1 %.

    What is `free` may differ, besides what is chosen when segmenting and what the network does not depend on.
    """
    for key in (field.name for field in fields(ModelCard) if field.name not in {*_FREE, *free}):
        one, other = getattr(ours, key), getattr(theirs, key)
        if one != other and not (key == "spacing" and np.allclose(one, other, rtol=0.01)):
            raise CheckpointError(
                f"{path}: {key} {_plain(other)} differs from {_plain(one)} of {first}; an ensemble needs the same"
            )


class Member(nn.Module):
    """A network of an ensemble's file, in memory from when it is called until another member is."""

    def __init__(self, ensemble: "_Open", number: int) -> None:
        super().__init__()
        self.ensemble, self.number = ensemble, number

    def train(self, mode: bool = True) -> Self:
        """Do nothing: members are in evaluation mode."""
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits N K X Y Z of images N C X Y Z."""
        logits: Tensor = self.ensemble.network(self.number, image.device)(image)
        return logits


@dataclass
class _Open:
    """An ensemble's file, and the one network that is in memory."""

    path: Path
    trust: tuple[str, ...]
    number: int | None = None
    current: nn.Module | None = None

    def network(self, number: int, device: torch.device) -> nn.Module:
        if self.number != number or self.current is None:
            self.number = self.current = None  # before the next takes its memory
            weights, _, spec = read_safetensors(self.path, number)
            try:
                self.current = filled(None, spec, weights, self.trust).eval().to(device)
            except CheckpointError as error:
                raise CheckpointError(f"{self.path}: member {number}: {error}") from error
            accelerate(self.current, device.type)
            self.number = number
        return self.current.to(device)


class Ensemble(nn.Module):
    """The networks of an ensemble's file where a module takes one network, which is then to average `members`.

    Args:
        path: Written by `raum ensemble`.
        trust: Modules whose classes the file may name, besides those of this package and MONAI.

    Raises:
        CheckpointError: The file names code that is not trusted, or holds weights of other networks.
        ExportError: The file cannot be read.
    """

    def __init__(self, path: Path | str, trust: Sequence[str] = ()) -> None:
        super().__init__()
        trained = open_members(Path(path), trust=trust)
        card = trained[0].card
        self.in_channels, self.out_channels, self.img_size = len(card.modalities), len(card.channels), card.roi_size
        self.members = [one.network for one in trained]

    def forward(self, image: Tensor) -> Tensor:
        """Return B K X Y Z without values, for checks of shapes: what is averaged is not logits but probabilities."""
        assert image.is_meta
        return image.new_empty(len(image), self.out_channels, *image.shape[2:])


def open_members(
    path: Path, *, trust: Iterable[str] = (), trust_code: bool = False, network: nn.Module | None = None
) -> list[TrainedNetwork]:
    """Return the networks of an ensemble's file, or the one of any other; see `open_network`."""
    if path.suffix != SAFETENSORS or not (count := count_members(path)):
        return [open_network(path, trust=trust, trust_code=trust_code, network=network)]
    ensemble = _Open(path, tuple(trust))
    _, card, _ = read_safetensors(path, 0)
    for number in range(count):  # what cannot be used is said now, not after the first case
        ensemble.network(number, torch.device("cpu"))
    return [TrainedNetwork(Member(ensemble, number), card) for number in range(count)]


def write_ensemble(
    paths: Sequence[Path],
    out: Path,
    *,
    trust: Iterable[str] = (),
    postprocess: Postprocess | None = None,
    temperature: float | None = None,
    **said: Any,
) -> ModelCard:
    """Write the networks of checkpoints or *.safetensors as one file and return its card.

    The file appears whole or not at all. Where no post-processing is given, it is that of the members; the temperature
    is the geometric mean of theirs. The card says what is `said` of license and evaluation.

    Raises:
        CheckpointError: Members differ in modalities, classes, data set or anything else that decides what is computed.
        ConfigError: Fewer than two members, or members of different post-processing and none given.
        ExportError: A member is a program, which has no weights to copy.
    """
    if len(paths) < 2:
        raise ConfigError(f"an ensemble takes two or more networks, and {len(paths)} is given")
    members = _Members(tuple(paths), tuple(trust))
    cards, specs, entries = [], [], []
    for number, path in enumerate(paths):
        member = members.open(number)
        if member.spec is None:
            raise ExportError(f"{path}: has no weights to copy; give the checkpoint or *{SAFETENSORS} of the network")
        cards.append(member.card)
        check_alike(paths[0], cards[0], path, member.card)
        specs.append(member.spec)
        for name, weight in member.network.state_dict().items():
            entries.append((-weight.element_size(), number, name, weight.dtype, tuple(weight.shape), weight.nbytes))
    entries.sort(key=lambda entry: entry[:3])
    card = _card(paths, cards, postprocess)
    own = math.exp(sum(math.log(one.temperature) for one in cards) / len(cards))
    card = replace(card, temperature=own if temperature is None else temperature, **said)
    metadata = {MODEL_CARD: card.to_json(), NETWORKS: json.dumps(specs), README: readme(card, len(paths))}
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for _, number, name, dtype, shape, size in entries:
        place = {"dtype": _TYPES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        header[f"{number}.{name}"] = place
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic(out) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, group in groupby(entries, key=lambda entry: entry[1]):
            weights = members.open(number).network.state_dict()
            for entry in group:
                raw = weights[entry[2]].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                file.write(raw.numpy().tobytes())
    return card


@dataclass
class _Members:
    """Checkpoints, of which the last that was opened is in memory."""

    paths: tuple[Path, ...]
    trust: tuple[str, ...]
    number: int | None = None
    current: TrainedNetwork | None = None

    def open(self, number: int) -> TrainedNetwork:
        if self.number != number or self.current is None:
            self.current = None
            self.current, self.number = open_network(self.paths[number], trust=self.trust), number
        return self.current


def _card(paths: Sequence[Path], cards: Sequence[ModelCard], postprocess: Postprocess | None) -> ModelCard:
    if postprocess is None:
        for path, card in zip(paths, cards, strict=True):
            if card.postprocess != cards[0].postprocess:
                raise ConfigError(
                    f"{path}: has another post-processing than {paths[0]}; say which with --postprocess, a file or none"
                )
        steps = cards[0].postprocess
    else:
        steps = postprocess.plain or None
    trained = hashlib.sha256("\n".join(sorted(card.training_cases for card in cards)).encode()).hexdigest()
    shared: dict[str, Any] = {"license": cards[0].license if len({card.license for card in cards}) == 1 else ""}
    return replace(cards[0], training_cases=trained, scores=dict(_means(cards)), postprocess=steps, **shared)


def _means(cards: Sequence[ModelCard]) -> Iterator[tuple[str, float]]:
    """Yield the mean of each score that all members have, which is not the ensemble's own."""
    for name in cards[0].scores:
        if all(name in card.scores for card in cards):
            yield name, sum(card.scores[name] for card in cards) / len(cards)


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value
