"""A trained network in one file that other programs run or take weights from; see `exported` for what is in it."""

import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raum_lightning.atomic import atomic
from raum_lightning.errors import ExportError
from raum_lightning.inference.exported import INPUT, NETWORK, ONNX, OUTPUT, PROGRAM, SAFETENSORS, need
from raum_lightning.inference.loading import TrainedNetwork, open_network
from raum_lightning.inference.readme import README, readme
from raum_lightning.models.accelerate import slow_down
from raum_lightning.runs.checkpoints import MODEL_CARD

FORMATS = {"safetensors": SAFETENSORS, "onnx": ONNX, "torch-export": PROGRAM}


def write(
    trained: TrainedNetwork, path: Path, *, tolerance: float = 1e-3, trust: Iterable[str] = ()
) -> tuple[float, float]:
    """Export to `path` and return the largest difference of the logits, and the largest logit.

    The file is read again and run beside the network, on one and on three windows of noise.

    Args:
        trained: The network, which must say how it is made where safetensors are asked for.
        path: It ends in .safetensors, .onnx or .pt2, and appears whole or not at all.
        tolerance: The largest difference of a logit that is allowed.
        trust: As for `open_network`.

    Raises:
        ExportError: The logits differ by more than `tolerance`.
        OutputError: The file cannot be written.
    """
    network, card = trained.network.eval().requires_grad_(False), trained.card
    slow_down(network)
    shape = (len(card.modalities), *card.roi_size)
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    content = {ONNX: _onnx, PROGRAM: _program, SAFETENSORS: _safetensors}[path.suffix](trained, images)
    with atomic(path) as unchecked:
        unchecked.write_bytes(content)
        del content
        again = open_network(unchecked, trust=trust, trust_code=True).network
        difference, largest = _compare(network, again, images)
        if not difference <= tolerance:
            raise ExportError(
                f"{path}: its logits differ by {difference:.1e} from the checkpoint's, more than the tolerance "
                f"{tolerance:g}; not written"
            )
    return difference, largest


def _compare(network: nn.Module, exported: nn.Module, images: Tensor) -> tuple[float, float]:
    with torch.inference_mode():
        pairs = [(network(batch), exported(batch)) for batch in (images[:1], images)]
    # the maxima of tensors: Python's lose NaN
    differences = torch.stack([(theirs - ours).abs().max() for ours, theirs in pairs])
    return differences.max().item(), pairs[-1][0].abs().max().item()


def _onnx(trained: TrainedNetwork, images: Tensor) -> bytes:
    need("onnx", "onnxscript", "onnxruntime")
    with _quiet():
        program = torch.onnx.export(
            trained.network,
            (images,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=_free_batch(),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props[MODEL_CARD] = trained.card.to_json()
    content: bytes = program.model_proto.SerializeToString()
    return content


def _program(trained: TrainedNetwork, images: Tensor) -> bytes:
    # by way of the memory: on a full disk torch's own writer aborts the process
    buffer = BytesIO()
    with _quiet():
        program = torch.export.export(trained.network, (images,), dynamic_shapes=_free_batch())
        torch.export.save(program, buffer, extra_files={f"{MODEL_CARD}.json": trained.card.to_json()})
    return buffer.getvalue()


def _safetensors(trained: TrainedNetwork, images: Tensor) -> bytes:
    from safetensors.torch import save

    if trained.spec is None:
        raise ExportError("a network that does not say how it is made cannot be written as safetensors")
    # safetensors know no two names of one memory
    weights = {name: weight.detach().clone().contiguous() for name, weight in trained.network.state_dict().items()}
    card = trained.card
    return save(weights, {MODEL_CARD: card.to_json(), NETWORK: json.dumps(trained.spec), README: readme(card)})


def _free_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch")},)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings, which are to its developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
