"""Frozen parts: which weights a run leaves as they are, and from which step on it no longer does."""

from pathlib import Path

import pytest
import torch

from raum_lightning import UNETR, SegmentationModule
from raum_lightning.errors import ConfigError
from tests.training.test_steps import SIZES, train


def changed(folder: Path, steps: int, **options: object) -> set[str]:
    """Parts of the network with a weight that so many steps change."""
    module = SegmentationModule(UNETR(**SIZES, feature_size=2), lr=1e-2, warmup_steps=0, **options)
    before = {name: weight.clone() for name, weight in module.network.named_parameters()}
    train(folder, steps, module)
    after = module.network.named_parameters()
    return {name.partition(".")[0] for name, weight in after if not torch.equal(before[name], weight)}


ALL = {"vit", "skips", "levels", "head"}


def test_frozen_for_good(tmp_path: Path) -> None:
    assert changed(tmp_path, 2) == ALL
    assert changed(tmp_path, 2, freeze=["vit", "head"]) == ALL - {"vit", "head"}


def test_thawed_after_so_many_steps(tmp_path: Path) -> None:
    assert changed(tmp_path, 2, freeze=["vit"], thaw_after=2) == ALL - {"vit"}
    assert changed(tmp_path, 3, freeze=["vit"], thaw_after=2) == ALL


def test_a_run_that_ends_before_is_told(caplog: pytest.LogCaptureFixture) -> None:
    frozen = SegmentationModule(UNETR(**SIZES, feature_size=2), freeze=["vit"], thaw_after=3).frozen
    frozen.check_length(4)
    assert not caplog.text
    frozen.check_length(3)
    assert "module.thaw_after=3 is not reached: the run has 3 steps, and vit stays as it is" in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"freeze": ["encoder"]}, "module.freeze names encoder, which the network lacks: its parts are vit, skips"),
        ({"freeze": ["vi"]}, "module.freeze names vi, which"),
        ({"freeze": sorted(ALL)}, "leaves nothing to train"),
        ({"thaw_after": 3}, "module.thaw_after=3 has nothing to thaw"),
        ({"freeze": ["vit"], "thaw_after": 0}, "module.thaw_after=0 must be a number of at least 1"),
    ],
)
def test_what_cannot_be_frozen(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SegmentationModule(UNETR(**SIZES, feature_size=2), **options)


@pytest.mark.parametrize(("thaw_after", "moved"), [(None, False), (3, False), (1, True)])
def test_statistics_of_frozen_norms(tmp_path: Path, thaw_after: int | None, moved: bool) -> None:
    network = UNETR(**SIZES, feature_size=2, norm="batch")
    module = SegmentationModule(network, lr=1e-2, warmup_steps=0, freeze=["skips"], thaw_after=thaw_after)
    before = {name: one.clone() for name, one in network.named_buffers() if name.endswith("running_mean")}
    train(tmp_path, 3, module)
    after = dict(network.named_buffers())
    assert {name.partition(".")[0] for name in before} == {"skips", "levels"}
    for name, one in before.items():
        assert torch.equal(after[name], one) is (name.startswith("skips.") and not moved), name
