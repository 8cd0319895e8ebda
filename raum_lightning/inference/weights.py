"""Weights to start a network from: a checkpoint, a safetensors file or a state dict of MONAI, opened as data alone."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from torch import Tensor, nn

from raum_lightning.atomic import expanded
from raum_lightning.errors import CheckpointError, ConfigError
from raum_lightning.inference.card import ModelCard
from raum_lightning.inference.exported import NETWORK, NETWORKS, SAFETENSORS
from raum_lightning.inference.hub import local
from raum_lightning.inference.loading import network_weights
from raum_lightning.models.monai import from_monai
from raum_lightning.models.transfer import CONVOLUTIONS, EMBEDDING, Table, fit_weights
from raum_lightning.models.unetr import UNETR
from raum_lightning.models.unetr_v2 import UNETRV2
from raum_lightning.runs.checkpoints import MODEL_CARD, read

# where programs put the state dict in a file, and what they put before its names
_PLACES = ("state_dict", "network_weights", "model")
_WRAPPED = "module."
_WRAPPERS = ("_orig_mod.", "model.", "net.")
_MONAI = "patch_embedding.position_embeddings"
_MONAI_KERNEL = "patch_embedding.patch_embeddings.weight"
_MONAI_VIT = ("patch_embedding.", "blocks.", "norm.")
# what depends on the classes
_HEADS = ("head.", "deep_heads.")
_SHOWN = 6
# the path of a class, and endings of files with weights, which look like the last part of one
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
SUFFIXES = (SAFETENSORS, ".ckpt", ".pt", ".pth", ".bin", ".pt2", ".onnx")
UNKNOWN = "it does not say which cases trained it: scores on these would be too high"
"""What is said where a file has no ids of cases."""


@dataclass(frozen=True)
class Weights:
    """Tensors by name, and what is known of the network that they were; None where the file does not say.

    Args:
        tensors: State dict.
        modalities: What its input channels are.
        outputs: What its output channels are: classes, or regions.
        img_size: Size of its images, X Y Z in voxels.
        dataset: Name of the data set that it was trained on.
        trained: Ids of the cases that trained it.
    """

    tensors: dict[str, Tensor]
    modalities: Sequence[str] | None = None
    outputs: Sequence[str] | None = None
    img_size: Sequence[int] | None = None
    dataset: str | None = None
    trained: Sequence[str] | None = None

    @classmethod
    def of(cls, tensors: dict[str, Tensor], card: ModelCard | None, **known: Any) -> "Weights":
        """Return tensors with what a model card says of them."""
        if card is not None:
            known = {"img_size": card.roi_size} | known
            known |= {"modalities": card.modalities, "outputs": card.channels, "dataset": card.dataset}
        return cls(tensors, **known)

    def replace(self, **known: Any) -> "Weights":
        """Return the same with what is given, and not None, in the place of what the file says."""
        return replace(self, **{name: value for name, value in known.items() if value is not None})

    def seen(self, dataset: str) -> frozenset[str]:
        """Return the ids of the cases that trained it, as far as the file says, that may be cases of this data set.

        An id of BraTS is one patient, whatever the data set is called; another data set's `case_1` is another case.
        """
        same = self.dataset in (None, dataset)
        return frozenset(case for case in self.trained or () if same or "brats" in case.casefold())


class Converter(ABC):
    """Weights in a format that is not known here; a subclass is named as `module.init_from`, with its arguments."""

    def __str__(self) -> str:
        return type(self).__name__

    @abstractmethod
    def read(self) -> Weights:
        """Return the tensors by the names that they have in the network that is trained, and what is known of them."""


def source_of(given: Path | str | Mapping[str, Any] | Converter) -> Path | Converter:
    """Return what `module.init_from` names: a file, or a converter, which is made of its `class_path`."""
    if isinstance(given, Mapping):
        made: Converter = resolve_name(given["class_path"])(**given.get("init_args") or {})
        return made
    if isinstance(given, Converter):
        return given
    path = expanded(given)
    if str(given).startswith("{"):
        raise ConfigError(f"module.init_from={given}: does not fit its class; in a YAML file it is said in what")
    if _CLASS.fullmatch(str(given)) and path.suffix not in SUFFIXES and not path.exists():
        raise ConfigError(
            f"module.init_from={given}: no such file; a class is given as {{class_path: {given}, init_args: ...}}"
        )
    return path


def weights_of(source: Path | Converter) -> Weights:
    """Return what a file holds or a converter reads.

    Raises:
        CheckpointError: As `read_weights`.
        ConfigError: The converter fails, or returns anything else.
    """
    if not isinstance(source, Converter):
        return read_weights(source)
    try:
        weights = source.read()
    except CheckpointError:
        raise
    except Exception as error:  # a user's own code may raise anything
        about = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error).partition("\n")[0]
        raise ConfigError(f"module.init_from={source}: {about or type(error).__name__}") from error
    tensors = getattr(weights, "tensors", None)
    if not isinstance(tensors, dict) or not all(isinstance(one, Tensor) for one in tensors.values()):
        name = type(source).__name__
        raise ConfigError(f"module.init_from={source}: {name}.read must return Weights with a dict of tensors")
    return weights


def read_weights(path: Path | str) -> Weights:
    """Return what `path` holds: a checkpoint of `raum fit`, *.safetensors, or a file of torch with a state dict.

    It may be an address, `hf://organisation/name`.

    Raises:
        CheckpointError: The file is damaged or holds no state dict, or holds objects that are no data.
    """
    path = local(expanded(path))
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    content: Any = read(path)
    state = next((content[place] for place in _PLACES if isinstance(content.get(place), dict)), content)
    tensors = {str(name).removeprefix(_WRAPPED): one for name, one in state.items() if isinstance(one, Tensor)}
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): one for name, one in tensors.items()}
    if not tensors:
        raise CheckpointError(f"{path}: holds no state dict, tensors by name, here or under {', '.join(_PLACES)}")
    if not (ours := network_weights(tensors, path.stat().st_size)):
        return Weights(tensors)
    card = ModelCard.of_checkpoint(content)
    return Weights.of(ours, card, trained=content.get("trained"))


def _read_safetensors(path: Path) -> Weights:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if NETWORKS in metadata:
                raise CheckpointError(f"{path}: holds an ensemble; give the checkpoint of one of its networks")
            card = metadata.get(MODEL_CARD)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: safetensors cannot read it ({error})") from error
    size = _img_size(path, metadata.get(NETWORK))
    return Weights.of(tensors, ModelCard.from_json(card) if card else None, img_size=size)


def _img_size(path: Path, network: str | None) -> Sequence[int] | None:
    """Return the size of the images of a network that is described in JSON, where it says one."""
    try:
        size: Any = json.loads(network)["init_args"].get("img_size") if network else None
        return None if size is None else [int(edge) for edge in size]
    except (ValueError, LookupError, AttributeError, TypeError):
        raise CheckpointError(f"{path}: does not say how its network is made, under {NETWORK}") from None


def named_as_ours(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of MONAI's UNETR, or of its ViT alone, by our names; all others as they are."""
    if _MONAI in tensors:
        tensors = {f"vit.{name}" if name.startswith(_MONAI_VIT) else name: one for name, one in tensors.items()}
        vit = {name: one for name, one in tensors.items() if name.startswith("vit.")}
        return from_monai(vit, strict=False) | {name: one for name, one in tensors.items() if name not in vit}
    return from_monai(tensors, strict=False) if f"vit.{_MONAI}" in tensors else dict(tensors)


def start_from(
    source: Path | Converter, network: nn.Module, *, modalities: Sequence[str], outputs: Sequence[str]
) -> tuple[Table, Weights]:
    """Load into `network` what fits of the weights of `source`; return what became of each tensor, and the weights.

    The layers that see the image take the weights of each modality by its name where the file says what it was trained
    on; where it does not, the same number of channels is taken to be the same ones, and any other number to be others,
    each of which starts from the mean. The head is left out where the file says that its channels mean something else:
    of a network that is not one of this package, all tensors with as many rows as it has channels.

    Args:
        source: As for `weights_of`.
        network: Any; only a UNETR or UNETRV2 is adapted to other modalities and sizes.
        modalities: Its input channels.
        outputs: What its output channels are.

    Raises:
        CheckpointError: The file cannot be read.
        ConfigError: No tensor fits, the converter fails, or a network that is not adapted was trained on other
            modalities.
    """
    weights = weights_of(source)
    tensors, trained_on = weights.tensors, weights.modalities
    target: Any = network
    try:
        if adapted := isinstance(network, (UNETR, UNETRV2)):
            tensors = named_as_ours(tensors)
        elif trained_on is not None and tuple(trained_on) != tuple(modalities):
            raise ConfigError(
                f"was trained on {', '.join(trained_on)}, in this order, and a {type(network).__name__} is not "
                f"adapted to others: give data.modalities '[{', '.join(trained_on)}]'"
            )
        heads = {}
        if weights.outputs is not None and tuple(weights.outputs) != tuple(outputs):
            rows = len(weights.outputs)
            heads = {
                name: one
                for name, one in tensors.items()
                if (name.startswith(_HEADS) if adapted else one.ndim and len(one) == rows)
            }
        fitted, table = fit_weights(
            {name: one for name, one in tensors.items() if name not in heads},
            target,
            modalities=modalities,
            trained_on=trained_on or _unnamed(weights.tensors, tensors, network, modalities),
            img_size=weights.img_size,
        )
        _check_channels(tensors, weights.modalities)
        _check_numbers({name: tensors[name] for name in table.taken + table.adapted}, network)
    except ConfigError as error:
        raise ConfigError(f"module.init_from={source}: {error}") from error
    except (RuntimeError, LookupError, ValueError, ArithmeticError) as error:
        said = str(error).partition("\n")[0]
        raise ConfigError(f"module.init_from={source}: its tensors are not those of a network ({said})") from error
    table.left_over.extend(heads)
    network.load_state_dict(fitted)
    return table, weights


def _check_channels(tensors: Mapping[str, Tensor], modalities: Sequence[str] | None) -> None:
    """Raise `ConfigError` where the layers that see the image have other channels than those that are named."""
    for name in (f"{block}.conv1.weight" for block in CONVOLUTIONS):
        if modalities is not None and name in tensors and tensors[name].shape[1] != len(modalities):
            raise ConfigError(
                f"its {name} sees {tensors[name].shape[1]} channels, and the modalities are {', '.join(modalities)}"
            )


def _check_numbers(tensors: Mapping[str, Tensor], network: nn.Module) -> None:
    """Raise `ConfigError` for weights that are of another kind than the network's, or not finite."""
    own = network.state_dict()
    for name, one in tensors.items():
        if (one.is_floating_point(), one.is_complex()) != (own[name].is_floating_point(), own[name].is_complex()):
            raise ConfigError(f"its weight {name} is of {one.dtype}, the network's of {own[name].dtype}")
        if not one.isfinite().all():
            raise ConfigError(f"its weight {name} holds NaN or infinite values")


def _unnamed(
    given: Mapping[str, Tensor], tensors: Mapping[str, Tensor], network: nn.Module, modalities: Sequence[str]
) -> Sequence[str]:
    """Return names for the channels of weights whose file gives none, as `tensors` by our names."""
    state = network.state_dict()
    kernels = [given[name] for name in (_MONAI_KERNEL, f"vit.{_MONAI_KERNEL}") if name in given]
    if kernels and kernels[0].ndim == 5:  # which says how many there are, whatever the patch size
        channels = kernels[0].shape[1]
        return modalities if channels == len(modalities) else [f"channel {n}" for n in range(channels)]
    for name in (*(f"{block}.conv1.weight" for block in CONVOLUTIONS), EMBEDDING):
        if name in tensors and name in state and tensors[name].ndim > 1:
            channels = tensors[name].shape[1] * len(modalities) // state[name].shape[1]
            return modalities if channels in (0, len(modalities)) else [f"channel {n}" for n in range(channels)]
    return modalities


def lines(source: Path | Converter, table: Table, weights: Weights) -> list[str]:
    """Return the table for people: a line for each fate, with the first names of all but those taken."""
    found = [f"init_from {source}", f"  taken      {len(table.taken)} tensors"]
    for fate, names in (("adapted", table.adapted), ("new", table.new), ("left over", table.left_over)):
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        found.append(f"  {fate:<10} {len(names)}{': ' if names else ''}{', '.join(names[:_SHOWN])}{more}")
    if weights.trained is None:
        found.append(f"  {UNKNOWN}")
    return found
