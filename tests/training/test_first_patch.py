"""What does not fit is said before any case is prepared."""

import warnings

import pytest
import torch
from monai.networks.nets import SegResNet, SwinUNETR, UNet
from torch import Tensor, nn

from raum_lightning import UNETR
from raum_lightning.errors import ConfigError
from raum_lightning.losses import DiceCELoss
from raum_lightning.training.first_patch import check_loss, output_channels
from raum_lightning.training.schedule import check_length


class Lists(nn.Conv3d):
    """Returns several maps, as networks with deep supervision do."""

    def forward(self, input: Tensor) -> list[Tensor]:  # type: ignore[override]
        return [super().forward(input)]


class Looks(nn.Conv3d):
    """Decides by a value, which the meta device does not have."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if input.sum().item() > 0 else input


@pytest.mark.slow
def test_networks_of_ours_and_others_pass_without_values_or_random_numbers() -> None:
    unetr = UNETR(
        img_size=16, patch_size=4, embed_dim=8, depth=2, num_heads=2, mlp_dim=16, out_indices=(1, 2), feature_size=2
    )
    swin = SwinUNETR(in_channels=3, out_channels=4, feature_size=12)
    norm = nn.BatchNorm3d(4)
    normed = nn.Sequential(nn.Conv3d(3, 4, 1), norm, nn.Dropout3d(0.5))
    state = torch.get_rng_state()
    for network, size in ((unetr, 16), (swin, 64), (normed, 7)):
        assert output_channels(network, 3, {"module.roi_size": (size,) * 3}, {"data.roi_size": (size,) * 3}) == 4
    assert torch.equal(torch.get_rng_state(), state)
    assert norm.running_mean is not None and norm.running_mean.tolist() == [0] * 4
    assert norm.num_batches_tracked is not None and int(norm.num_batches_tracked) == 0


class Twice(nn.Module):
    """Registers a part by two names, as MONAI's DynUNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.one = self.two = nn.Conv3d(3, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.two(image)
        return out


def test_a_part_with_two_names_keeps_its_weights() -> None:
    network = Twice()
    assert output_channels(network, 3, {"module.roi_size": (4, 4, 4)}, {}) == 4
    assert not network.two.weight.is_meta


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "size", "fits"),
    [
        (SegResNet(spatial_dims=3, in_channels=3, out_channels=4, init_filters=8), 36, "[32, 32, 32] or [40, 40, 40]"),
        (UNet(3, 3, 4, channels=[8, 16, 32], strides=[2, 2]), 34, "[32, 32, 32] or [36, 36, 36]"),
    ],
    ids=["SegResNet", "UNet"],
)
def test_a_size_that_a_network_cannot_take_is_named_with_those_that_fit(
    network: nn.Module, size: int, fits: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        output_channels(network, 3, {}, {"data.roi_size": (size,) * 3})
    said = str(caught.value)
    assert f"{type(network).__name__} cannot take 3 channels of {size} x {size} x {size} voxels (" in said
    assert said.endswith(f": try data.roi_size {fits}")


def test_other_channels_and_other_outputs_are_refused() -> None:
    sizes = {"module.roi_size": (8, 8, 8)}
    with pytest.raises(ConfigError, match=r"Conv3d cannot take 2 .*: see data\.modalities and module\.roi_size"):
        output_channels(nn.Conv3d(3, 4, 1), 2, sizes, {})
    with pytest.raises(ConfigError, match=r"\(module\.roi_size\) into list; logits B K X Y Z"):
        output_channels(Lists(3, 4, 1), 3, sizes, {})
    with pytest.raises(ConfigError, match=r"into 1 x 4 x 4 x 4 x 4; logits"):
        output_channels(nn.Conv3d(3, 4, 2, stride=2), 3, sizes, {})


def test_a_network_that_needs_values_is_let_through_with_a_reason() -> None:
    assert "meta" in str(output_channels(Looks(3, 4, 1), 3, {}, {"data.roi_size": (8, 8, 8)}))


def test_a_loss_is_called_once() -> None:
    check_loss(DiceCELoss(), 4, lambda labels: labels)
    check_loss(nn.CrossEntropyLoss(weight=torch.ones(4)), 4, Tensor.long)
    with pytest.raises(ConfigError, match=r"module\.loss CrossEntropyLoss raises weight tensor"):
        check_loss(nn.CrossEntropyLoss(weight=torch.ones(3)), 4, Tensor.long)
    with pytest.raises(ConfigError, match=r"module\.loss CrossEntropyLoss returns Tensor"):
        check_loss(nn.CrossEntropyLoss(reduction="none"), 4, Tensor.long)
    with warnings.catch_warnings(), pytest.raises(ConfigError, match=r"module\.loss MSELoss raises The size"):
        warnings.simplefilter("ignore")  # broadcasting, of which torch warns
        check_loss(nn.MSELoss(), 4, Tensor.long)


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({"max_steps": 0}, r"trainer\.max_steps=0 trains nothing"),
        ({"max_epochs": 0}, r"trainer\.max_epochs=0 trains nothing"),
        ({"max_steps": 5, "limit_train_batches": 0.0}, r"trainer\.limit_train_batches=0 trains nothing"),
        ({"max_steps": -5}, r"trainer\.max_steps=-5 must be at least 1"),
        ({"max_steps": 9}, r"module\.warmup_steps=10 is longer than the run of trainer\.max_steps=9"),
    ],
    ids=str,
)
def test_a_run_that_would_not_train_is_refused(trainer: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_length(trainer, 10)
    check_length({"max_steps": 10, "max_epochs": None}, 10)
    check_length({"max_steps": -1, "max_epochs": 3, "limit_train_batches": 0.5}, 10)
