"""The gradient of a convolution in 16 bits is that in float32, also where the map is lower than the kernel."""

import copy

import pytest
import torch
from torch import Tensor, nn

from raum_lightning.models import UNETRV2
from raum_lightning.models.accelerate import accelerate, slow_down


def gradients(network: nn.Module, image: Tensor, *, rounded: bool) -> dict[str, Tensor]:
    """Return the gradients of a sum of squares, in float32 or with 16 bits in the convolutions."""
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
        output = network(image)
    output.float().square().sum().backward()
    return {
        name: parameter.grad.float() for name, parameter in network.named_parameters() if parameter.grad is not None
    }


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys() and found
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() < 0.05 * gradient.norm(), name


@pytest.mark.parametrize("size", [(1, 4, 4), (2, 2, 2), (2, 8, 8), (2, 1, 2), (3, 2, 2), (4, 3, 5)])
@pytest.mark.parametrize("width", [3, 5, 7])
@pytest.mark.parametrize("mode", ["zeros", "circular", "replicate"])
def test_any_network(size: tuple[int, ...], width: int, mode: str) -> None:
    if mode == "circular" and min(size) < width // 2:
        size = tuple(max(edge, width // 2) for edge in size)
    network = nn.Sequential(nn.Conv3d(3, 16, width, padding=width // 2, padding_mode=mode), nn.Conv3d(16, 8, 1))
    image = torch.randn(2, 3, *size)
    expected = gradients(network, image, rounded=False)
    accelerate(network, "cpu")
    for _ in range(3):  # what was wrong was whatever lay in memory
        assert_near(gradients(network, image, rounded=True), expected)
    whole = copy.deepcopy(network).bfloat16()
    assert_near(gradients(whole, image.bfloat16(), rounded=False), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(image).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"stride": (1, 2, 2)}, {"dilation": 2, "padding": 2}, {"groups": 4}]
)
def test_options_are_those_of_the_convolution(options: dict[str, int]) -> None:
    network = nn.Sequential(nn.Conv3d(4, 8, 5, **{"padding": 2, **options}))
    image = torch.randn(2, 4, 3, 9, 9)
    if options.get("dilation"):
        image = torch.randn(2, 4, 6, 9, 9)
    expected, output = gradients(network, image, rounded=False), network(image)
    accelerate(network, "cpu")
    assert torch.equal(network(image), output)
    assert_near(gradients(network, image, rounded=True), expected)


def test_the_second_network_on_small_patches() -> None:
    options = {"img_size": 32, "embed_dim": 24, "depth": 4, "num_heads": 2, "out_indices": (1, 2, 3, 4)}
    network = UNETRV2(stem="conv", skips="stem", stem_size=8, feature_size=8, norm="group", **options)
    image = torch.randn(2, 3, 32, 32, 32)
    expected = gradients(network, image, rounded=False)
    accelerate(network, "cpu")
    found = gradients(network, image, rounded=True)
    lowest = {name: gradient for name, gradient in expected.items() if name.startswith("stem.stages.4.")}
    assert lowest
    for name, gradient in lowest.items():  # rounding adds up to 0.2; it was 0.88 and more
        assert (found[name] - gradient).norm() < 0.4 * gradient.norm(), name


def test_the_classes_are_given_back() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Sequential(nn.Conv3d(2, 2, 1)))
    kinds = [type(part) for part in network.modules()]
    accelerate(network, "cpu")
    assert [type(part) for part in network.modules()] != kinds
    slow_down(network)
    assert [type(part) for part in network.modules()] == kinds
