"""Files of strangers that are well-formed and wrong: each is one short sentence that names the file, and no mask."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raum_lightning.errors import CheckpointError, UserError
from raum_lightning.inference.export import write
from raum_lightning.inference.exported import read_card
from raum_lightning.inference.loading import TrainedNetwork, open_network
from raum_lightning.inference.segmenter import load
from raum_lightning.json_files import is_like, parse_json
from tests.helpers.handmade import CARD, TRUST, Handmade

Parts = tuple[dict[str, Any], bytes]
SPEC = {"class_path": "tests.helpers.handmade.Handmade", "init_args": {}}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "net.safetensors"
    write(TrainedNetwork(Handmade(), replace(CARD, roi_size=(8, 8, 8)), SPEC), path, trust=[TRUST])
    return path


def altered(sound: Path, change: Callable[[dict[str, Any], bytes], Parts]) -> Path:
    """The file after a change of its header, as JSON, and of the bytes of its weights."""
    raw = sound.read_bytes()
    end = 8 + struct.unpack("<Q", raw[:8])[0]
    header, weights = change(json.loads(raw[8:end]), raw[end:])
    text = json.dumps(header).encode()
    path = sound.with_name("altered.safetensors")
    path.write_bytes(struct.pack("<Q", len(text)) + text + weights)
    return path


def with_metadata(**values: str) -> Callable[[dict[str, Any], bytes], Parts]:
    def change(header: dict[str, Any], weights: bytes) -> Parts:
        return {**header, "__metadata__": {**header["__metadata__"], **values}}, weights

    return change


def with_card(**values: Any) -> Callable[[dict[str, Any], bytes], Parts]:
    def change(header: dict[str, Any], weights: bytes) -> Parts:
        card = {**json.loads(header["__metadata__"]["model_card"]), **values}
        return with_metadata(model_card=json.dumps(card))(header, weights)

    return change


def with_weights(value: float) -> Callable[[dict[str, Any], bytes], Parts]:
    return lambda header, weights: (header, np.full(len(weights) // 4, value, "<f4").tobytes())


def as_integers(header: dict[str, Any], weights: bytes) -> Parts:
    return {name: one if name == "__metadata__" else one | {"dtype": "I32"} for name, one in header.items()}, weights


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_weights(float("nan")), r"its weight weight holds NaN or infinite values \(2 tensors do\)"),
        (with_weights(float("inf")), "holds NaN or infinite values"),
        (as_integers, r"is of torch\.int32, not torch\.float32"),
        (with_metadata(model_card='{"modalities":' + "9" * 5000 + "}"), "the model card is not valid JSON"),
        (with_metadata(model_card="[" * 9999 + "]" * 9999), "not valid JSON .it is nested too deeply"),
        (with_metadata(model_card='{"a": "' + "b" * 2**20 + '"}'), "more than 1,048,576 characters"),
        (with_metadata(network="9" * 5000), "its network is not valid JSON"),
        (with_metadata(networks="{}"), "does not say how its networks are made"),
        (with_metadata(networks="[]"), "does not say how its networks are made"),
        (with_card(modalities=[f"m{n}" for n in range(1000)]), "modalities=.*\\.\\.\\. is not valid"),
        (with_card(dataset="a" * 9999), "dataset='a+\\.\\.\\. is not valid"),
        (with_card(license="A" * 9999), "license='A+\\.\\.\\. is no identifier"),
        (with_card(roi_size=[10**400, 1, 1]), r"roi_size=\(10+\.\.\. is not valid"),
        (with_card(label_values=[0, 1, 1, 1]), "label_values=.* is not valid"),
        (with_card(label_values=[7, 1, 2, 4]), "label_values=.* is not valid"),
        (with_card(regions={"\x1b]0;x\x07": ["ET"]}), "regions=.* is not valid"),
        (with_card(regions={"a" * 999: ["ET"]}), "regions=.* is not valid"),
        (with_card(scores={f"s{n}": 1.0 for n in range(20_000)}), "more than 10,000 values"),
        (with_card(evaluation={"scores": {"dice_wt": [1]}}), "evaluation=.* is not valid"),
        (with_card(postprocess={"holes": ["NOPE"]}), "names 'NOPE', which is none of the regions"),
        (with_card(postprocess={"x": 1}), "'x' is no step"),
        (with_card(description={"labels": 3}), "model card's description of its data set"),
    ],
)
def test_a_wrong_file_is_one_short_sentence_with_its_name(
    sound: Path, change: Callable[[dict[str, Any], bytes], Parts], said: str
) -> None:
    path = altered(sound, change)
    with pytest.raises(UserError, match=said) as raised:
        load(path, trust=TRUST, device="cpu")
    text = str(raised.value)
    assert text.startswith(f"{path}: ") and text.isprintable() and len(text) < len(str(path)) + 420


def test_a_network_that_returns_nan_makes_no_mask(sound: Path, brats: Path, tmp_path: Path) -> None:
    path = altered(sound, with_weights(3e38))
    case = next(folder for folder in sorted(brats.iterdir()) if folder.is_dir())
    segmenter = load(path, trust=TRUST, device="cpu", flips=1, overlap=0.0)
    with pytest.raises(CheckpointError, match="the network returned NaN or infinite values"):
        segmenter.segment(case)


def test_a_sound_file_opens(sound: Path) -> None:
    trained = open_network(altered(sound, lambda header, weights: (header, weights)), trust=[TRUST])
    assert torch.equal(trained.network.get_parameter("weight"), Handmade().weight)
    assert read_card(sound)[1] == SPEC


def test_values_are_compared_with_types() -> None:
    right: list[tuple[Any, Any]] = [
        (1, int),
        (1, float),
        (None, str | None),
        ([1, 2], tuple[int, ...]),
        ({"a": []}, {"a": [int]}),
        ([], [int]),
    ]
    wrong = [(True, int), (1.5, int), ("1", float), ([1, "2"], [int]), ({}, {"a": int}), ([1], tuple[int, int])]
    assert all(is_like(*one) for one in right) and not any(is_like(*one) for one in wrong)
    assert parse_json('{"a": {"b": 1}, "b": [{"a": 2}]}') == {"a": {"b": 1}, "b": [{"a": 2}]}
    with pytest.raises(ValueError, match="it has the key 'b' twice"):
        parse_json('{"a": {"b": 1, "b": 1}}')
    for text in ("", "{", "[" * 9999, "9" * 5000, b"\xff\xfe\xfa"):
        with pytest.raises(ValueError):
            parse_json(text)
