"""A trained network from a file: the network alone, its card, and no code but that of known packages."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from raum_lightning.errors import CheckpointError, ExportError
from raum_lightning.inference.card import ModelCard
from raum_lightning.inference.exported import ONNX, PROGRAM, SAFETENSORS, read_onnx, read_program, read_safetensors
from raum_lightning.inference.trusted import build, check, check_instantiator, check_shapes
from raum_lightning.runs.checkpoints import read

PREFIX = "network."  # of the network's weights among those of the module


@dataclass(frozen=True)
class TrainedNetwork:
    """A network in evaluation mode, N C X Y Z to N K X Y Z, and its card.

    `spec` says how it is made, as class_path and init_args; None for one that an export holds as a program.
    """

    network: nn.Module
    card: ModelCard
    spec: Mapping[str, Any] | None = None


def open_network(
    path: Path, *, trust: Iterable[str] = (), trust_code: bool = False, network: nn.Module | None = None
) -> TrainedNetwork:
    """Return the network of a checkpoint of `raum fit` or of a file of `raum export`.

    Args:
        path: A checkpoint, or a file that ends in .onnx, .pt2 or .safetensors.
        trust: Modules and packages whose classes the file may name, besides those of `trusted.PACKAGES`.
        trust_code: Open a .pt2, which can run any code.
        network: Takes the weights, where the file does not say how the network is made.

    Raises:
        CheckpointError: The file is damaged, says too little, names code that is not trusted, or holds weights of
            another network.
        ExportError: The export cannot be read.
    """
    try:
        if path.suffix == ONNX:
            program, card = read_onnx(path)
            return TrainedNetwork(program, card)
        if path.suffix == PROGRAM:
            if not trust_code:
                raise ExportError(
                    f"{path}: a {PROGRAM} can run any code when it is opened; give --trust-code (trust_code=True) "
                    f"where you know who made it, or ask for the network as *{SAFETENSORS}"
                )
            program, card = read_program(path)
            return TrainedNetwork(program, card)
        if path.suffix == SAFETENSORS:
            weights, card, spec = read_safetensors(path)
        else:
            weights, card, spec = _read_checkpoint(path, described=network is None)
        return TrainedNetwork(filled(network, spec, weights, tuple(trust)).eval(), card, spec)
    except CheckpointError as error:
        raise error if str(path) in str(error) else CheckpointError(f"{path}: {error}") from error


def trusted_parts(path: Path, given: Mapping[str, Any], trust: Iterable[str]) -> dict[str, nn.Module]:
    """Return network and loss as a checkpoint of `SegmentationModule` describes them, but for those that are `given`.

    Raises:
        CheckpointError: The file is damaged or names code that is not trusted.
    """
    try:
        content = read(path)
        saved = content.get("hyper_parameters", {})
        check_instantiator(saved)
        wanted = [name for name in ("network", "loss") if name not in given and saved.get(name) is not None]
        if "network" in wanted:
            weights = network_weights(content["state_dict"], path.stat().st_size)
            check_shapes(saved["network"], weights, trust)
        return {name: build(saved[name], trust, name) for name in wanted}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read_checkpoint(path: Path, *, described: bool) -> tuple[dict[str, Tensor], ModelCard, Any]:
    """Return the weights, mapped from the disk, the card, and how the network is made."""
    content = read(path)
    card = ModelCard.of_checkpoint(content)
    hyper_parameters = content.get("hyper_parameters")
    if not isinstance(hyper_parameters, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError("is not a checkpoint of `raum fit`")
    check_instantiator(hyper_parameters)
    if described and "network" not in hyper_parameters:
        raise CheckpointError(
            "does not say how its network is made, as those of networks of others trained without `raum fit` do not: "
            "give it, raum_lightning.load(checkpoint, network=...)"
        )
    if card is None:
        raise CheckpointError(
            "does not say what cases it was trained on: it needs to be trained with a BratsDataModule, by "
            "`raum fit` or as Trainer.fit(module, datamodule=...)"
        )
    return network_weights(content["state_dict"], path.stat().st_size), card, hyper_parameters.get("network")


def network_weights(state: Mapping[str, Any], file_size: int) -> dict[str, Tensor]:
    """Return the network's weights among those of its module.

    Raises `CheckpointError` for tensors that repeat few numbers of the file until they fill the memory.
    """
    weights = {name.removeprefix(PREFIX): weight for name, weight in state.items() if name.startswith(PREFIX)}
    if any(not isinstance(weight, Tensor) for weight in weights.values()):
        raise CheckpointError("holds weights that are no tensors")
    largest = max((weight.nbytes - weight.untyped_storage().nbytes() for weight in weights.values()), default=0)
    # twice, for weights that several layers share
    if largest > 0 or sum(weight.nbytes for weight in weights.values()) > 2 * file_size:
        raise CheckpointError("holds weights that are larger than the file")
    return weights


def filled(network: nn.Module | None, spec: Any, weights: Mapping[str, Tensor], trust: tuple[str, ...]) -> nn.Module:
    """Return the network that `spec` describes, or the one that is given, with the weights."""
    if network is None:
        check(spec, trust)
        check_shapes(spec, weights, trust)
        network = build(spec, trust)
    own = network.state_dict()
    if other := [name for name, one in weights.items() if name in own and _kind(one) != _kind(own[name])]:
        found, wanted = weights[other[0]].dtype, own[other[0]].dtype
        raise CheckpointError(f"its weights are not those of the network: {other[0]} is of {found}, not {wanted}")
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:  # of a network that the user gave
        problem = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"its weights are not those of the network: {problem}") from error
    check_finite_weights(dict(network.named_parameters()))
    return network


def check_finite_weights(weights: Mapping[str, Any], path: Path | str | None = None) -> None:
    """Raise `CheckpointError`, beginning with the file where it is given, for weights that are NaN or infinite."""
    if broken := [name for name, one in weights.items() if isinstance(one, Tensor) and not one.isfinite().all()]:
        before, after = (f"{path}: ", "; give an earlier checkpoint") if path else ("", "")
        raise CheckpointError(
            f"{before}its weight {broken[0]} holds NaN or infinite values ({len(broken)} tensors do){after}"
        )


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()
