"""The decoder's layers that do several steps at once, against one step after the other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from raum_lightning.models.decoder import Upsampled, Upsampling


@pytest.mark.parametrize("width", [1, 3, 5])
@settings(deadline=None)
@given(channels=st.tuples(*[st.integers(1, 4)] * 3), size=st.tuples(*[st.integers(1, 4)] * 3), biased=st.booleans())
def test_upsampling_and_convolving_at_once_is_one_after_the_other(
    width: int, channels: tuple[int, int, int], size: tuple[int, int, int], biased: bool
) -> None:
    below_channels, between, out = channels
    below = torch.randn(2, below_channels, *size, dtype=torch.float64)
    weight = torch.randn(below_channels, between, 2, 2, 2, dtype=torch.float64)
    kernel = torch.randn(out, between, width, width, width, dtype=torch.float64)
    bias = torch.randn(out, dtype=torch.float64) if biased else None
    up = Upsampled(below, weight)
    expected = nn.functional.conv3d(up.compute(), kernel, bias, padding=width // 2)
    assert up.shape == up.compute().shape
    torch.testing.assert_close(up.convolve(kernel, bias), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("size", "expected"), [(96, [False, False, True, True]), (128, [False, True, True, True])])
def test_upsampling_waits_where_it_pays(size: int, expected: list[bool]) -> None:
    """From the tokens of UNETR up to all voxels."""
    ups = [Upsampling(*channels) for channels in ((768, 128), (128, 64), (64, 32), (32, 16))]
    maps = [torch.zeros(1, up.in_channels, *[size >> (4 - level)] * 3) for level, up in enumerate(ups)]
    assert [isinstance(up(below), Upsampled) for up, below in zip(ups, maps, strict=True)] == expected
