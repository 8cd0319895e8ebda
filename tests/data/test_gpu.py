"""What the data promises of a GPU: kernels give what they give on the CPU, batches are pinned and augmented there."""

import numpy as np
import pytest
import torch
import torchio as tio

from raum_lightning.data import augment
from raum_lightning.data.augment import BatchAugmentation, kernels
from tests.data.test_transport import LENGTH, batch_of, loader

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

ROI = (20, 16, 18)
WITHOUT_NOISE = tio.Compose(
    [
        augment.RandomSpatial(turn_probability=0.5, p_affine=0.7, translation=2, p_elastic=0.6, max_displacement=3),
        augment.RandomGamma(p=0.5),
        augment.RandomBlur(std=1.0, p=0.5),
        augment.RandomBiasField(p=0.5),
        augment.RandomScaleShift(p=0.5),
    ]
)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_sampling_is_that_of_the_cpu(half: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(2, 24, 20, 22, generator=rng)
    image = image.half() if half else image
    label = torch.randint(4, (1, 24, 20, 22), generator=rng, dtype=torch.uint8)
    matrix = torch.tensor([[0.9, 0.2, 0, 1.3], [-0.2, 1.1, 0.1, -2], [0, 0.1, 1, 0.4]])
    displacement = torch.randn(3, 7, 7, 7, generator=rng)
    points = [kernels.coordinates(matrix, displacement, ROI, torch.device(name)) for name in ("cpu", "cuda")]
    torch.testing.assert_close(points[1].cpu(), points[0], atol=1e-4, rtol=0)
    linear = [kernels.sample_linear(image.to(at.device), at).cpu() for at in points]
    torch.testing.assert_close(linear[1], linear[0], atol=2e-3, rtol=0)
    nearest = [kernels.sample_nearest(label.to(at.device), at).cpu() for at in points]
    assert (nearest[0] != nearest[1]).float().mean() < 1e-3


def test_intensity_is_that_of_the_cpu() -> None:
    image, numbers = torch.randn(2, *ROI), torch.tensor([0.8, 1.3])
    for change in (
        lambda x: kernels.gamma(x, numbers),
        lambda x: kernels.scale_shift(x, numbers, numbers - 1),
        lambda x: kernels.blur(x, (0.8, 0, 2.1)),
        lambda x: kernels.bias_field(x, torch.full((2, 2, 2), 0.1)),
    ):
        torch.testing.assert_close(change(image.cuda()).cpu(), change(image), atol=1e-4, rtol=1e-4)


def test_noise_has_its_mean_and_standard_deviation() -> None:
    noise = kernels.noise(torch.zeros(1, 64, 64, 64, device="cuda"), 0.5, 0.1, seed=3)
    assert noise.mean().item() == pytest.approx(0.5, abs=0.002) and noise.std().item() == pytest.approx(0.1, rel=0.02)
    assert torch.equal(noise, kernels.noise(torch.zeros(1, 64, 64, 64, device="cuda"), 0.5, 0.1, seed=3))


def test_a_batch_is_augmented_as_on_the_cpu() -> None:
    batch = BatchAugmentation(WITHOUT_NOISE, roi_size=ROI)
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 2, 30, 28, 26)).astype(np.float32))
    labels = torch.arange(4 * 30 * 28 * 26).reshape(4, 30, 28, 26).remainder(4).to(torch.uint8)
    here, there = (batch(images.to(at), labels.to(at), [5, 6, 7, 8]) for at in ("cpu", "cuda"))
    assert there[0].is_cuda and there[1].is_cuda
    torch.testing.assert_close(there[0].cpu(), here[0], atol=5e-3, rtol=0)
    assert (there[1].cpu() != here[1]).float().mean() < 1e-3


def test_shared_batches_are_pinned_and_their_memory_is_used_again() -> None:
    """The key of a place stays an int in the thread that pins, which turned tuples into lists."""
    for _ in range(2):
        patches = loader(pin_memory=True)
        for index, batch in enumerate(patches):
            assert batch["image"].is_pinned()
            assert batch["case"] == batch_of(index)["case"]
            torch.testing.assert_close(batch["image"], batch_of(index)["image"], rtol=0, atol=0)
            assert all(isinstance(place, int) for place in patches.shared.in_use)
        assert index == LENGTH // 2
