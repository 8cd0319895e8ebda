"""A trained network in one file that other programs run: ONNX, or a program of `torch.export`.

The file holds what a checkpoint says beside the weights: the cases it was trained on (modalities, edition, voxel size,
orientation), what its channels mean, and its windows. In ONNX these are the properties `raum.*` of the model's
metadata, each a JSON value; in a program the extra file `raum.json`. The input `image` is N C X Y Z, float32, of the
window's size and prepared as in training; the output `logits` is N K X Y Z; N is free.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from raum_lightning.errors import ExportError
from raum_lightning.models.cpu import accelerate

FORMATS = {"onnx": ".onnx", "torch-export": ".pt2"}
EXTRA_FILE = "raum.json"
PREFIX = "raum."
INPUT, OUTPUT = "image", "logits"


@dataclass(frozen=True)
class About:
    """What a network must be told with: `case` as `BratsDataModule.described`, the others as in the module."""

    case: Mapping[str, Any]
    mode: str
    flips: int
    windows: Mapping[str, Any]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From what JSON made of it."""
        windows = values["windows"] | {"roi_size": tuple(values["windows"]["roi_size"])}
        return cls(values["case"], values["mode"], values["flips"], windows)


@dataclass(frozen=True)
class Exported:
    """An exported network, N C X Y Z to N K X Y Z, and what it must be told with."""

    network: nn.Module
    about: About

    @property
    def mode(self) -> str:
        """As `SegmentationModule.mode`."""
        return self.about.mode

    @property
    def flips(self) -> int:
        """As `SegmentationModule.flips`."""
        return self.about.flips

    @property
    def windows(self) -> dict[str, Any]:
        """As `SegmentationModule.windows`."""
        return dict(self.about.windows)


def write(
    network: nn.Module, about: About, path: Path, *, channels: int, tolerance: float = 1e-3
) -> tuple[float, float]:
    """Exports to `path`, ending in .onnx or .pt2; the largest difference of the logits, and the largest logit.

    The file is read again and run beside the network, on one and on three windows of noise with `channels` channels.
    Raises `ExportError`, and leaves no file, where they differ by more than `tolerance`.
    """
    network = network.eval().requires_grad_(False)
    accelerate(network, enabled=False)
    images = torch.randn(3, channels, *about.windows["roi_size"], generator=torch.Generator().manual_seed(0))
    path.parent.mkdir(parents=True, exist_ok=True)
    unchecked = path.with_name(f".unchecked-{path.name}")
    try:
        with _quiet():
            (_write_onnx if _is_onnx(path) else _write_program)(network, about, unchecked, images)
        difference, largest = _compare(network, read(unchecked).network, images)
        if not difference <= tolerance:
            raise ExportError(
                f"{path}: its logits differ by {difference:.1e} from the checkpoint's, more than the tolerance "
                f"{tolerance:g}; not written"
            )
        unchecked.replace(path)
    finally:
        unchecked.unlink(missing_ok=True)
    return difference, largest


def read(path: Path) -> Exported:
    """The network of a file that `write` wrote. Raises `ExportError` for other files."""
    if not path.is_file():
        raise ExportError(f"{path}: no such model")
    return _read_onnx(path) if _is_onnx(path) else _read_program(path)


def is_export(path: Path) -> bool:
    """Whether it is named as `write` names its files."""
    return path.suffix in FORMATS.values()


def _is_onnx(path: Path) -> bool:
    if not is_export(path):
        raise ExportError(f"{path}: is named neither {' nor '.join(f'*{suffix}' for suffix in FORMATS.values())}")
    return path.suffix == FORMATS["onnx"]


def _compare(network: nn.Module, exported: nn.Module, images: Tensor) -> tuple[float, float]:
    with torch.inference_mode():
        pairs = [(network(batch), exported(batch)) for batch in (images[:1], images)]
    # the maxima of tensors: Python's lose what is not a number
    differences = torch.stack([(theirs - ours).abs().max() for ours, theirs in pairs])
    return differences.max().item(), pairs[-1][0].abs().max().item()


class _OnnxNetwork(nn.Module):
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
        """N C X Y Z to N K X Y Z."""
        (logits,) = self.session.run([OUTPUT], {INPUT: image.float().cpu().numpy()})
        return torch.from_numpy(logits).to(image.device)


def _write_onnx(network: nn.Module, about: About, path: Path, images: Tensor) -> None:
    _need("onnx", "onnxscript", "onnxruntime")
    program = torch.onnx.export(
        network,
        (images,),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=_free_batch(),
        verbose=False,
    )
    assert program is not None
    for name, value in asdict(about).items():
        program.model.metadata_props[PREFIX + name] = json.dumps(value)
    program.save(str(path), external_data=False)


def _read_onnx(path: Path) -> Exported:
    _need("onnxruntime")
    try:
        network = _OnnxNetwork(path)
    except Exception as error:  # onnxruntime's exceptions share no base but this
        raise ExportError(f"{path}: onnxruntime cannot read it ({str(error).splitlines()[0]})") from error
    properties = network.session.get_modelmeta().custom_metadata_map
    values = {name.removeprefix(PREFIX): value for name, value in properties.items() if name.startswith(PREFIX)}
    if not values:
        raise ExportError(f"{path}: does not say what it was trained on, as `raum export` writes it")
    return Exported(network, About.of({name: json.loads(value) for name, value in values.items()}))


class _Program(nn.Module):
    """A program of `torch.export`, which knows one mode only: that of evaluation."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = program.module().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Nothing to switch."""
        return self

    def forward(self, image: Tensor) -> Tensor:
        """N C X Y Z to N K X Y Z."""
        logits: Tensor = self.program(image)
        return logits


def _write_program(network: nn.Module, about: About, path: Path, images: Tensor) -> None:
    program = torch.export.export(network, (images,), dynamic_shapes=_free_batch())
    torch.export.save(program, path, extra_files={EXTRA_FILE: json.dumps(asdict(about))})


def _read_program(path: Path) -> Exported:
    extra: dict[str, Any] = {EXTRA_FILE: ""}
    try:
        program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # a damaged archive makes torch raise nearly anything
        raise ExportError(f"{path}: torch.export cannot read it ({str(error).splitlines()[0]})") from error
    if not extra[EXTRA_FILE]:
        raise ExportError(f"{path}: does not say what it was trained on, as `raum export` writes it")
    return Exported(_Program(program), About.of(json.loads(extra[EXTRA_FILE])))


def _free_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch")},)


def _need(*packages: str) -> None:
    if missing := [package for package in packages if find_spec(package) is None]:
        raise ExportError(f"ONNX takes {', '.join(missing)}, not installed: pip install 'raum-lightning[onnx]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings, which are to its developers."""
    import logging

    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
