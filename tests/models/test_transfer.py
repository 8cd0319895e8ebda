"""Weights for a network of other modalities, classes and sizes: each tensor against what it should have become."""

import math

import pytest
import torch
from monai.networks import nets

from raum_lightning.models import UNETR
from raum_lightning.models.monai import OUT_INDICES, from_monai
from raum_lightning.models.transfer import fit_weights
from tests.helpers.networks import MODERN, modern, small

THREE = ("flair", "t1ce", "t2")


def test_the_same_network_takes_everything() -> None:
    source, target = small(), small()
    with torch.no_grad():
        target.head.weight.zero_()
    state, table = fit_weights(source.state_dict(), target)
    torch.testing.assert_close(state, dict(source.state_dict()), rtol=0, atol=0)
    assert (len(table.taken), table.adapted, table.new, table.left_over) == (len(state), [], [], [])
    assert not target.head.weight.any(), "the network itself is not changed"


def test_modalities_are_taken_by_name() -> None:
    source, target = small(), small(in_channels=3)
    state, table = fit_weights(source.state_dict(), target, modalities=("t2", "t1", "flair"), trained_on=THREE)
    adapted = {"vit.patch_embed.weight", "skips.0.conv1.weight", "skips.0.shortcut.0.weight"}
    assert set(table.adapted) == adapted and not table.new
    for name in adapted:
        before, after = (weight.view(len(weight), 3, -1) for weight in (source.state_dict()[name], state[name]))
        expected = torch.stack([before[:, 2], before.mean(dim=1), before[:, 0]], dim=1)
        torch.testing.assert_close(after, expected)
    target.load_state_dict(state, strict=True)


def test_fewer_modalities_see_what_they_saw() -> None:
    """The logits are those of the first network where the channel that is gone is 0."""
    source, target = small().double(), small(in_channels=2).double()
    state, _ = fit_weights(source.state_dict(), target, modalities=("t1ce", "flair"), trained_on=THREE)
    target.load_state_dict(state, strict=True)
    image = torch.randn(1, 3, 16, 16, 16, dtype=torch.float64)
    image[:, 2] = 0
    torch.testing.assert_close(target(image[:, [1, 0]]), source(image))


def test_a_head_of_other_classes_is_new() -> None:
    target = small(out_channels=5)
    state, table = fit_weights(small().state_dict(), target)
    assert table.new == table.left_over == ["head.weight", "head.bias"]
    assert torch.equal(state["head.weight"], target.head.weight)


def test_positions_are_interpolated_along_three_axes() -> None:
    source, target = small(img_size=32), small(img_size=(48, 64, 32))
    line = torch.arange(4.0)
    x, y, z = torch.meshgrid(line, line, line, indexing="ij")
    with torch.no_grad():
        source.vit.pos_embed.copy_((x + 10 * y + 100 * z).reshape(1, 64, 1).expand(1, 64, 24))
    state, table = fit_weights(source.state_dict(), target)
    assert table.adapted == ["vit.pos_embed"]
    field = state["vit.pos_embed"][0, :, 0].view(6, 8, 4)
    # the centre of cell i of 6 lies at (i + 1/2) 4/6 - 1/2 of 4, of 8 at (i + 1/2) / 2 - 1/2
    assert field[2, 3, 1].item() == pytest.approx((2.5 * 4 / 6 - 0.5) + 10 * 1.25 + 100 * 1)
    back, _ = fit_weights(state, source, img_size=(48, 64, 32))
    assert back["vit.pos_embed"].shape == (1, 64, 24)
    with pytest.raises(ValueError, match="192 positions are not those of a cube: give the trained size"):
        fit_weights(state, source)


@pytest.mark.parametrize("img_size", [None, (32, 32, 32)])
def test_positions_of_another_patch_size_are_interpolated_and_the_patches_new(img_size: tuple[int, ...] | None) -> None:
    source, target = small(img_size=32), small(img_size=32, patch_size=16, out_indices=(1, 2, 3, 4))
    state, table = fit_weights(source.state_dict(), target, img_size=img_size)
    assert "vit.pos_embed" in table.adapted and "vit.patch_embed.weight" in table.new
    eighths = source.vit.pos_embed.view(2, 2, 2, 2, 2, 2, 24)
    torch.testing.assert_close(state["vit.pos_embed"].view(2, 2, 2, 24), eighths.mean(dim=(1, 3, 5)))
    target.load_state_dict(state, strict=True)


def test_monais_weights_go_to_another_size() -> None:
    sizes = {"in_channels": 3, "out_channels": 4, "feature_size": 4, "num_heads": 4, "mlp_dim": 96}
    theirs = nets.UNETR(**sizes, img_size=(32, 32, 32), hidden_size=48)
    ours = UNETR(**sizes, img_size=48, embed_dim=48, out_indices=OUT_INDICES)
    state, table = fit_weights(from_monai(theirs.state_dict()), ours)
    assert table.adapted == ["vit.pos_embed"] and not table.new + table.left_over
    assert state["vit.pos_embed"].shape == (1, math.prod([3, 3, 3]), 48)
    ours.load_state_dict(state, strict=True)


def test_the_stem_of_the_second_network_is_brought_to_other_modalities() -> None:
    source, target = modern(**MODERN), modern(**MODERN | {"in_channels": 4})
    state, table = fit_weights(source.state_dict(), target, modalities=("t1", *THREE), trained_on=THREE)
    assert set(table.adapted) == {"stem.stages.0.conv1.weight"} and "vit.patch_embed.weight" in table.taken
    # four channels need no shortcut of their own, where the stem has four
    assert table.left_over == [name for name in source.state_dict() if name.startswith("stem.stages.0.shortcut")]
    target.load_state_dict(state, strict=True)


def test_a_stem_that_halves_keeps_its_shortcut_and_drops_the_head_of_other_classes() -> None:
    halving = MODERN | {"stem_stride": 2, "out_indices": (2, 4)}
    source, target = modern(**halving), modern(**halving | {"in_channels": 2, "out_channels": 5})
    fitted, table = fit_weights(
        source.state_dict(), target, modalities=("t2", "flair"), trained_on=("flair", "t1ce", "t2")
    )
    stage = "stem.stages.0"
    assert set(table.adapted) == {f"{stage}.conv1.weight", f"{stage}.shortcut.0.weight"}
    shortcut = source.state_dict()[f"{stage}.shortcut.0.weight"]
    assert torch.equal(fitted[f"{stage}.shortcut.0.weight"], shortcut[:, [2, 0]])
    heads = {f"{name}.{part}" for name in ("head", "deep_heads.0", "deep_heads.1") for part in ("weight", "bias")}
    assert set(table.new) == heads
    target.load_state_dict(fitted, strict=True)


def test_what_cannot_fit_is_named() -> None:
    with pytest.raises(ValueError, match="none of the 1 tensors fits the network"):
        fit_weights({"swinViT.norm.weight": torch.zeros(1)}, small())
    with pytest.raises(ValueError, match=r"must name each channel of the network \(2\) and of the weights"):
        fit_weights(small().state_dict(), small(in_channels=2), modalities=("t1",), trained_on=THREE)
    with pytest.raises(ValueError, match=r"modalities=\[\] and trained_on=\[\] must name each channel"):
        fit_weights(small().state_dict(), small(in_channels=2))
