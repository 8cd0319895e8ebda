"""Networks as `raum export` writes them, read again: ONNX, a program of `torch.export`, or safetensors.

Each holds the model card, as JSON under the key `model_card` of its metadata. ONNX and programs are whole: the input
`image` is N C X Y Z, float32, of the window's size and prepared as in training; the output `logits` is N K X Y Z; N is
free. A program of `torch.export` can run any code when it is opened. Safetensors hold weights, and under the key
`network` in JSON the class that takes them with its arguments.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from raum_lightning.errors import CheckpointError, ExportError
from raum_lightning.inference.card import ModelCard
from raum_lightning.json_files import parse_json
from raum_lightning.runs.checkpoints import MODEL_CARD

ONNX, PROGRAM, SAFETENSORS = ".onnx", ".pt2", ".safetensors"
NETWORK = "network"
# of several networks in one file, see `ensemble`
NETWORKS = "networks"
INPUT, OUTPUT = "image", "logits"


class OnnxNetwork(nn.Module):
    """A session of onnxruntime, on the GPU where that package has one; float32 whatever autocast says."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        available = onnxruntime.get_available_providers()
        providers = [provider for provider in wanted if provider in available]
        self.session = onnxruntime.InferenceSession(path, options, providers)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits N K X Y Z of images N C X Y Z."""
        (logits,) = self.session.run([OUTPUT], {INPUT: image.float().cpu().numpy()})
        return torch.from_numpy(logits).to(image.device)


class Program(nn.Module):
    """A program of `torch.export`, which knows one mode only: that of evaluation; float32 whatever autocast says."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program: Any = program.module().requires_grad_(False)
        for node in list(self.program.graph.nodes):
            if node.target == torch.ops.aten._assert_tensor_metadata.default:  # of the device of its export, too
                self.program.graph.erase_node(node)
        self.program.recompile()

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move what the program makes itself, such as positions, to the device of its weights."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = next(self.parameters()).device
        for node in self.program.graph.nodes:
            if node.kwargs.get("device") is not None:
                node.update_kwarg("device", device)
        self.program.recompile()
        return self

    def train(self, mode: bool = True) -> Self:
        """Do nothing: there is nothing to switch."""
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits N K X Y Z of images N C X Y Z."""
        kind = image.device.type
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            logits: Tensor = self.program(image.float())
        return logits


def read_onnx(path: Path) -> tuple[nn.Module, ModelCard]:
    """Return the network and its card; raise `ExportError` for other files."""
    _check_file(path)
    need("onnxruntime")
    try:
        network = OnnxNetwork(path)
    except Exception as error:  # onnxruntime's exceptions share no base but this
        raise ExportError(f"{path}: onnxruntime cannot read it ({str(error).splitlines()[0]})") from error
    return network, _card(path, network.session.get_modelmeta().custom_metadata_map)


def read_program(path: Path) -> tuple[nn.Module, ModelCard]:
    """Return the network and its card, running whatever the file says; raise `ExportError` for other files."""
    _check_file(path)
    extra: dict[str, Any] = {f"{MODEL_CARD}.json": ""}
    try:
        program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # a damaged archive makes torch raise nearly anything
        raise ExportError(f"{path}: torch.export cannot read it ({str(error).splitlines()[0]})") from error
    return Program(program), _card(path, {MODEL_CARD: extra[f"{MODEL_CARD}.json"]})


def read_safetensors(path: Path, member: int | None = None) -> tuple[dict[str, Tensor], ModelCard, Any]:
    """Return the weights, the card, and how the network is made; raise `ExportError` for other files.

    Of the file of an ensemble, those of one `member`.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
        card = _card(path, metadata)
        names = list(file.keys())
        if NETWORKS not in metadata:
            return {name: file.get_tensor(name) for name in names}, card, _specs(path, metadata)
        if member is None:
            raise ExportError(f"{path}: holds an ensemble, which `raum segment` takes; give one network here")
        prefix = f"{member}."
        own = [name for name in names if name.startswith(prefix)]
        weights = {name.removeprefix(prefix): file.get_tensor(name) for name in own}
        return weights, card, _specs(path, metadata)[member]


def read_card(path: Path) -> tuple[ModelCard, Any]:
    """Return the card of a safetensors file and how its network is made, for an ensemble a list: no weight is read."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
        return _card(path, metadata), _specs(path, metadata)


def count_members(path: Path) -> int:
    """Return how many networks the file of an ensemble holds, 0 for the file of one network."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
        return len(_specs(path, metadata)) if NETWORKS in metadata else 0


def _specs(path: Path, metadata: Mapping[str, str]) -> Any:
    """Return how the network of a file is made, None where it does not say; for an ensemble a list of one or more."""
    key = NETWORKS if NETWORKS in metadata else NETWORK
    try:
        specs = parse_json(metadata.get(key, "null"))
    except ValueError as error:
        raise ExportError(f"{path}: its {key} is not valid JSON ({error})") from error
    if key == NETWORKS and not (isinstance(specs, list) and specs):
        raise ExportError(f"{path}: does not say how its networks are made, as `raum ensemble` writes it")
    return specs


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    _check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{path}: safetensors cannot read it ({error})") from error


def need(*packages: str) -> None:
    """Raise `ExportError` where a package that ONNX needs is not installed."""
    if missing := [package for package in packages if find_spec(package) is None]:
        raise ExportError(
            f"ONNX needs {', '.join(missing)}, which is not installed: pip install 'raum-lightning[onnx]'"
        )


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ExportError(f"{path}: no such model")


def _card(path: Path, metadata: Mapping[str, str]) -> ModelCard:
    if not metadata.get(MODEL_CARD):
        raise ExportError(f"{path}: does not say what it was trained on, as `raum export` writes it: export it again")
    try:
        return ModelCard.from_json(metadata[MODEL_CARD])
    except CheckpointError as error:
        raise ExportError(f"{path}: {error}") from error
