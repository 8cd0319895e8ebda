import math
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import sliding_window_inference
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from raum_lightning.errors import CheckpointError, ConfigError
from raum_lightning.geometry import bounding_box, brain_mask
from raum_lightning.inference.blending import blend, importance
from raum_lightning.inference.sliding_window import probabilities, segment, sliding_window
from raum_lightning.inference.windows import count_windows, even_steps, window_starts
from raum_lightning.labels import classify

CPU = torch.device("cpu")


class Casts(TorchDispatchMode):
    """Collects the shapes of what is cast to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op is torch.ops.aten._to_copy.default and kwargs.get("dtype") == torch.bfloat16:
            self.shapes.append(args[0].shape)
        return op(*args, **kwargs or {})


class Ramp(nn.Module):
    """A convolution plus the voxel's place in the window: neither flip- nor shift-equivariant, so blending shows."""

    def __init__(self, channels: int, classes: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv3d(channels, classes, 3, padding=1)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        x, y, z = (torch.linspace(0, 1, size, dtype=windows.dtype) for size in windows.shape[2:])
        return self.conv(windows) + x[:, None, None] - 2 * y[:, None] + z**2


def identity(windows: torch.Tensor) -> torch.Tensor:
    return windows.clone()


def brain(*shape: int, seed: int = 0, channels: int = 3, batch: int = 1) -> torch.Tensor:
    """Noise inside an ellipsoid that leaves a margin of a fifth at the low end of each axis, 0 outside."""
    torch.manual_seed(seed)
    axes = [(torch.arange(size) - 0.6 * size) / (0.4 * size) for size in shape]
    radius = axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2
    return torch.randn(batch, channels, *shape) * (radius < 1)


def monai_starts(shape: tuple[int, ...], roi: tuple[int, int, int], overlap: float) -> list[tuple[int, ...]]:
    interval = [size if size == length else int(size * (1 - overlap)) for size, length in zip(roi, shape, strict=True)]
    return [tuple(axis.start for axis in region) for region in dense_patch_slices(shape, roi, interval)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@pytest.mark.parametrize(
    ("shape", "roi", "overlap", "batch_size"),
    [((24, 21, 17), (8, 9, 10), 0.5, 3), ((20, 33, 12), (12, 16, 12), 0.25, 1), ((9, 9, 9), (4, 3, 2), 0.0, 5)],
)
def test_blend_equals_monai_given_the_same_windows(shape, roi, overlap, batch_size, dtype, tolerance):
    torch.manual_seed(1)
    volume, network = torch.randn(2, *shape, dtype=dtype), Ramp(2, 4).to(dtype)
    with torch.no_grad():
        expected = sliding_window_inference(volume[None], roi, 2, network, overlap=overlap, mode="gaussian")[0]
    starts = monai_starts(shape, roi, overlap)
    actual = blend(volume, network, starts, roi_size=roi, batch_size=batch_size)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(24, 16, 40), (5, 16, 40), (5, 7, 3)])
def test_sliding_window_equals_monai_where_even_steps_are_monais(shape):
    """With 16 voxels a window MONAI's steps are even over 16, 24 and 40 voxels; 5, 7 and 3 are padded."""
    torch.manual_seed(2)
    image, network = torch.randn(2, 3, *shape), Ramp(3, 2)
    with torch.no_grad():
        expected = sliding_window_inference(image, (16, 16, 16), 1, network, overlap=0.5, mode="gaussian")
    actual = sliding_window(image, network, roi_size=(16, 16, 16), overlap=0.5)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_importance_is_a_gaussian_with_a_floor():
    weights = importance(8, 16, 3, CPU, torch.float64)
    # sigma 1, 2 and 0.375; the voxel 0.5, 0.5 and 0 from the centre
    assert weights[3, 7, 1].item() == pytest.approx(math.exp(-0.5 * (0.5**2 + 0.25**2)), rel=1e-6)
    # 3.5, 7.5 and 1 from the centre the Gaussian has sunk below the floor
    assert weights[0, 0, 0].item() == pytest.approx(1e-3) == weights.min().item()
    assert importance(8, 16, 3, CPU, torch.float64) is weights


@given(length=st.integers(1, 300), roi=st.integers(1, 128), overlap=st.floats(0, 0.95))
def test_steps_are_few_even_and_overlap_enough(length, roi, overlap):
    roi = min(roi, length)
    steps = even_steps(length, roi, overlap)
    stride = max(1, int(roi * (1 - overlap) + 1e-6))
    gaps = [after - before for before, after in pairwise(steps)]
    assert (steps[0], steps[-1]) == (0, length - roi)
    assert all(gap == 1 or 1 < gap <= roi * (1 - overlap) + 1e-6 for gap in gaps)
    assert max(gaps, default=0) - min(gaps, default=0) <= 1
    assert len(steps) == 1 + math.ceil((length - roi) / stride)


@pytest.mark.parametrize(
    ("length", "roi", "overlap", "expected"),
    [
        (175, 128, 0.5, [0, 47]),
        (240, 128, 0.5, [0, 56, 112]),
        (128, 128, 0.5, [0]),
        (20, 10, 0.8, [0, 2, 4, 6, 8, 10]),
        (4, 2, 0.9, [0, 1, 2]),
    ],
)
def test_steps_in_numbers(length, roi, overlap, expected):
    assert even_steps(length, roi, overlap) == expected


@pytest.mark.slow
@settings(max_examples=50)
@given(
    shape=st.tuples(*[st.integers(4, 24)] * 3),
    roi=st.tuples(*[st.integers(1, 16)] * 3),
    overlap=st.sampled_from([0.0, 0.3, 0.5]),
    batch_size=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_identity_network_returns_the_image_and_background_elsewhere(shape, roi, overlap, batch_size, seed):
    torch.manual_seed(seed)
    image = torch.randn(1, 2, *shape) * (torch.rand(shape) < 0.02)
    result = sliding_window(image, identity, roi_size=roi, overlap=overlap, batch_size=batch_size)
    signal = brain_mask(image)[:, None]
    torch.testing.assert_close(result * signal, image, rtol=0, atol=1e-5)
    fill = torch.tensor([-20.0, -40.0]).view(1, 2, 1, 1, 1)
    assert ((result == fill) | (result.abs() < 1e-5) | signal).all()


@settings(max_examples=30)
@given(shape=st.tuples(*[st.integers(4, 20)] * 3), roi=st.tuples(*[st.integers(2, 24)] * 3), overlap=st.floats(0, 0.7))
def test_constant_network_stays_constant_in_the_brain(shape, roi, overlap):
    image = brain(*shape, channels=1)
    result = sliding_window(image, lambda windows: torch.full_like(windows, 3.5), roi_size=roi, overlap=overlap)
    torch.testing.assert_close(result[brain_mask(image)[:, None]], torch.full((int(brain_mask(image).sum()),), 3.5))


def test_windows_without_brain_are_skipped_and_change_nothing():
    image = torch.zeros(1, 1, 32, 8, 8)
    image[..., :6, :, :] = 1
    image[..., 26:, :, :] = 2
    network, seen = Ramp(1, 2), []

    def watched(windows: torch.Tensor) -> torch.Tensor:
        seen.append(windows)
        return network(windows)

    result = sliding_window(image, watched, roi_size=(8, 8, 8))
    every = [(start, 0, 0) for start in even_steps(32, 8, 0.5)]
    whole = blend(image[0], network, every, roi_size=(8, 8, 8))
    assert len(seen) == count_windows(image, roi_size=(8, 8, 8)) == 4 < len(every)
    assert all(brain_mask(window).any() for window in seen)
    inside = brain_mask(image)[0]
    assert torch.equal(result[0, :, inside], whole[:, inside])
    assert result[0, :, 12:20].unique(dim=1).flatten(1)[:, 0].tolist() == [-20, -40]


def test_only_the_bounding_box_is_visited():
    image = torch.zeros(1, 3, 40, 40, 40)
    image[:, 1, 10:20, 3:25, 30:38] = 1
    assert bounding_box(brain_mask(image)[0]) == (slice(10, 20), slice(3, 25), slice(30, 38))
    result = sliding_window(image, Ramp(3, 4), roi_size=(16, 16, 16))
    assert result[0, :, 25, 30, 20].tolist() == [-20, -40, -40, -40]
    # 10 and 8 voxels need one window of 16; 22 voxels need two
    assert count_windows(image, roi_size=(16, 16, 16)) == 2
    assert window_starts(torch.ones(16, 22, 16, dtype=torch.bool), roi_size=(16, 16, 16)) == [(0, 0, 0), (0, 6, 0)]


def test_the_result_moves_with_the_brain_and_ignores_the_batch():
    volume, network = brain(20, 18, 16), Ramp(3, 4)
    moved = torch.roll(nn.functional.pad(volume, (8,) * 6), (2, -3, 5), dims=(2, 3, 4))
    options = {"roi_size": (12, 24, 8), "batch_size": 2}
    together = sliding_window(torch.cat([moved, brain(36, 34, 32, seed=5)]), network, **options)
    alone = sliding_window(volume, network, **options)
    shifted = together[:1, :, 10:30, 5:23, 13:29]
    inside = brain_mask(volume)[0]
    torch.testing.assert_close(shifted[0, :, inside], alone[0, :, inside], rtol=0, atol=1e-6)


def test_batches_of_windows_and_the_place_of_the_sums_change_nothing():
    image, network = brain(20, 18, 22, batch=2), Ramp(3, 4)
    expected = sliding_window(image, network, roi_size=(8, 8, 8))
    batched = sliding_window(image, network, roi_size=(8, 8, 8), batch_size=7, accumulate_on=CPU)
    torch.testing.assert_close(batched, expected, rtol=0, atol=1e-6)


def test_a_device_short_of_memory_hands_the_sums_to_the_cpu(monkeypatch):
    image, network, zeros, refused = brain(12, 12, 12), Ramp(3, 4), torch.zeros, []
    expected = sliding_window(image, network, roi_size=(8, 8, 8))

    def short(*size, device=None, **options):
        if device is not None:
            refused.append(device)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return zeros(*size, **options)

    monkeypatch.setattr(torch, "zeros", short)
    with pytest.warns(RuntimeWarning, match="short of memory"):
        result = sliding_window(image, network, roi_size=(8, 8, 8))
    assert refused
    assert torch.equal(result, expected)


def test_sums_stay_in_float32_under_autocast():
    image, network = brain(16, 16, 16), Ramp(3, 4)
    dtypes = []

    def spy(windows):
        dtypes.append(network.conv(windows).dtype)
        return network.conv(windows)

    exact = sliding_window(image, network.conv, roi_size=(8, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        result = sliding_window(image, spy, roi_size=(8, 8, 8))
    assert set(dtypes) == {torch.bfloat16}
    assert result.dtype == torch.float32
    inside = brain_mask(image)[0]
    torch.testing.assert_close(result[0, :, inside], exact[0, :, inside], rtol=0.02, atol=0.02)


def test_no_graph_is_built_and_the_result_may_be_changed_in_place():
    with torch.inference_mode():
        sliding_window(brain(8, 8, 8), Ramp(3, 2), roi_size=(6, 7, 5))
    result = sliding_window(brain(8, 8, 8), Ramp(3, 2), roi_size=(6, 7, 5))
    assert not result.requires_grad
    result.clamp_(min=0)


@pytest.mark.parametrize("mode", ["labels", "regions"])
def test_a_volume_without_brain_is_background(mode):
    empty, network = torch.zeros(1, 3, 10, 6, 4), Ramp(3, 3)
    logits = sliding_window(empty, network, roi_size=(4, 4, 4))
    assert classify(logits, mode).count_nonzero() == 0
    assert segment(empty, network, mode=mode, roi_size=(4, 4, 4), flips=2).equal(torch.zeros(1, 10, 6, 4).byte())


@pytest.mark.parametrize("mode", ["labels", "regions"])
def test_segment_decides_like_classify_in_the_brain_and_is_background_outside(mode):
    image, network = brain(20, 18, 16, batch=2), Ramp(3, 4 if mode == "labels" else 3)
    labels = segment(image, network, mode=mode, roi_size=(8, 12, 20))
    inside = brain_mask(image)
    expected = classify(sliding_window(image, network, roi_size=(8, 12, 20)), mode)
    assert labels.dtype == torch.uint8
    assert len(labels.unique()) == 4
    assert torch.equal(labels, expected.masked_fill(~inside, 0))


def test_probabilities_without_signal_are_certain():
    image = brain(12, 12, 12)
    outside = ~brain_mask(image)[0]
    labels = probabilities(image, Ramp(3, 4), mode="labels", roi_size=(8, 8, 8))[0, :, outside]
    regions = probabilities(image, Ramp(3, 3), mode="regions", roi_size=(8, 8, 8))[0, :, outside]
    assert labels.unique(dim=1).flatten().tolist() == [1, 0, 0, 0]
    assert regions.unique(dim=1).flatten().tolist() == [0, 0, 0]


@pytest.mark.parametrize(("flips", "axes"), [(1, ()), (2, (2,)), (4, (2, 3)), (8, (2, 3, 4))])
@pytest.mark.parametrize("mode", ["labels", "regions"])
def test_flips_average_the_mirrored_outputs(flips, axes, mode):
    torch.manual_seed(3)
    image, network = torch.randn(1, 3, 6, 5, 4), Ramp(3, 3)
    terms = []
    with torch.no_grad():
        for chosen in product([False, True], repeat=len(axes)):
            dims = [axis for axis, flip in zip(axes, chosen, strict=True) if flip]
            logits = network(image.flip(dims)).flip(dims)
            terms.append(logits.softmax(dim=1) if mode == "labels" else logits.sigmoid())
    actual = probabilities(image, network, mode=mode, flips=flips, roi_size=(6, 5, 4))
    assert len(terms) == flips
    torch.testing.assert_close(actual, torch.stack(terms).mean(dim=0), rtol=0, atol=1e-6)


def test_two_flips_in_literal_numbers():
    """The second region's logit is 0, 1, 2 along X: flipped 2, 1, 0, so its mean is that of sigmoid(0) and (2)."""
    image = torch.ones(1, 1, 3, 1, 1)
    ramp = torch.arange(3.0).view(1, 1, 3, 1, 1)
    actual = probabilities(image, lambda windows: windows * ramp, mode="regions", flips=2, roi_size=(3, 1, 1))
    torch.testing.assert_close(actual.flatten(), torch.tensor([0.690399, 0.731059, 0.690399]), rtol=0, atol=1e-6)


def test_flips_leave_an_equivariant_network_as_it_is():
    image, network = brain(18, 16, 14), nn.Conv3d(3, 4, 1)
    once = probabilities(image, network, mode="labels", roi_size=(8, 8, 8))
    eight = probabilities(image, network, mode="labels", flips=8, roi_size=(8, 8, 8))
    torch.testing.assert_close(eight, once, rtol=0, atol=1e-6)


def test_an_ensemble_averages_probabilities():
    image, networks = brain(14, 12, 10), [Ramp(3, 4, seed) for seed in range(3)]
    options = {"mode": "labels", "flips": 2, "roi_size": (8, 8, 8)}
    single = [probabilities(image, network, **options) for network in networks]
    expected = torch.stack(single).mean(dim=0)
    torch.testing.assert_close(probabilities(image, networks, **options), expected, rtol=0, atol=1e-6)
    assert torch.equal(segment(image, networks, **options), expected.argmax(dim=1).to(torch.uint8))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"roi_size": (8, 8)}, r"roi_size=\(8, 8\)"),
        ({"roi_size": (8, 0, 8)}, r"roi_size=\(8, 0, 8\)"),
        ({"overlap": 1.0}, r"overlap=1.0 is not in \[0, 1\)"),
        ({"overlap": -0.1}, "overlap=-0.1"),
        ({"flips": 3}, "flips=3 .* 1, 2, 4 or 8"),
        ({"mode": "softmax"}, "mode='softmax'"),
    ],
)
def test_mistakes_are_named(wrong, sentence):
    options = {"roi_size": (8, 8, 8), "mode": "labels"} | wrong
    with pytest.raises(ValueError, match=sentence):
        segment(brain(8, 8, 8), identity, **options)


def test_weights_are_cast_once_for_all_windows_of_a_case() -> None:
    network = nn.Conv3d(1, 2, 3, padding=1)
    image = torch.ones(1, 1, 24, 12, 12)
    with Casts() as casts, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        sliding_window(image, network, roi_size=(12, 12, 12))
    windows = [shape for shape in casts.shapes if shape == (1, 1, 12, 12, 12)]
    assert len(windows) == 3
    assert casts.shapes.count(network.weight.shape) == 1


def test_outputs_that_are_no_logits_are_refused() -> None:
    image = torch.ones(1, 1, 8, 8, 8)
    with pytest.raises(ConfigError, match="returns a tuple and not one tensor of logits: with deep supervision call"):
        sliding_window(image, lambda windows: (windows, windows), roi_size=(8, 8, 8), overlap=0)  # type: ignore[return-value]
    with pytest.raises(CheckpointError, match="the network returned NaN or infinite values"):
        segment(image, lambda windows: windows * torch.nan, mode="regions", roi_size=(8, 8, 8), overlap=0)
