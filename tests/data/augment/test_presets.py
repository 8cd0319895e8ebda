"""The transforms of the strong augmentation against their definitions, modality dropout, and augmentation by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchio as tio
from jsonargparse import ArgumentParser

from raum_lightning.data.augment import (
    PRESETS,
    RandomContrast,
    RandomInvertedGamma,
    RandomLowResolution,
    RandomModalityDropout,
    RandomSpatial,
    SampledTransform,
    default_augmentation,
    samplable,
)
from raum_lightning.data.augment.presets import build_transform
from raum_lightning.data.augment.resolution import low_resolution
from raum_lightning.data.datamodule import BratsDataModule
from raum_lightning.errors import ConfigError

IMAGE = torch.randn(2, 12, 10, 14, generator=torch.Generator().manual_seed(0))


def test_contrast_is_its_definition() -> None:
    changed = RandomContrast().apply(IMAGE, {"factor": torch.tensor([0.75, 1.25])}).numpy()
    for source, result, factor in zip(IMAGE.numpy(), changed, (0.75, 1.25), strict=True):
        expected = np.clip((source - source.mean()) * factor + source.mean(), source.min(), source.max())
        np.testing.assert_allclose(result, expected, atol=1e-5)
    assert changed[1].max() == IMAGE[1].max() and changed[0].max() < IMAGE[0].max()


def test_inverted_gamma_is_its_definition() -> None:
    gammas = (0.7, 1.5)
    changed = RandomInvertedGamma().apply(IMAGE, {"gamma": torch.tensor(gammas)}).numpy()
    for source, result, gamma in zip(IMAGE.double().numpy(), changed, gammas, strict=True):
        inverted = -source
        unit = (inverted - inverted.min()) / (inverted.max() - inverted.min())
        curved = -(unit**gamma)
        expected = (curved - curved.mean()) / curved.std() * source.std() + source.mean()
        np.testing.assert_allclose(result, expected, atol=1e-4)
    same = RandomInvertedGamma().apply(IMAGE, {"gamma": torch.ones(2)})
    torch.testing.assert_close(same, IMAGE, atol=1e-4, rtol=0)
    constant = torch.full((1, 3, 3, 3), 2.0)
    torch.testing.assert_close(RandomInvertedGamma().apply(constant, {"gamma": torch.tensor([1.5])}), constant)


@pytest.mark.parametrize("zoom", [(0.5, 0.5, 0.5), (0.6, 1.0, 0.9), (1.0, 1.0, 1.0), (0.01, 0.5, 0.7)])
def test_low_resolution_is_nearest_down_and_linear_up(zoom: tuple[float, float, float]) -> None:
    size = [max(1, round(n * factor)) for n, factor in zip(IMAGE.shape[1:], zoom, strict=True)]
    small = F.interpolate(IMAGE[None], size=size, mode="nearest-exact")
    expected = F.interpolate(small, size=IMAGE.shape[1:], mode="trilinear", align_corners=False)[0]
    torch.testing.assert_close(low_resolution(IMAGE, list(zoom)), expected, atol=1e-5, rtol=0)


def test_low_resolution_of_some_channels() -> None:
    params = {"zoom": torch.tensor([0.5, 0.5, 0.5]), "channels": torch.tensor([False, True])}
    changed = RandomLowResolution().apply(IMAGE, params)
    assert torch.equal(changed[0], IMAGE[0]) and not torch.equal(changed[1], IMAGE[1])
    torch.testing.assert_close(changed[1], low_resolution(IMAGE[1:], [0.5] * 3)[0])


@pytest.mark.parametrize("name", ["light", "default", "strong"])
def test_presets_are_sampled_from_a_seed_and_keep_labels(name: str) -> None:
    transform = PRESETS[name]()
    assert samplable(transform)
    label = torch.randint(4, (1, 12, 10, 14), dtype=torch.uint8)
    images = []
    for seed in range(30):
        sampled = SampledTransform.sample(transform, channels=2, seed=seed)
        image, moved = sampled.apply(IMAGE, label, (12, 10, 14))
        assert image.isfinite().all() and image.shape == IMAGE.shape and image.dtype == torch.float32
        assert moved.dtype == torch.uint8 and moved.max() <= 3
        images.append(image)
        again = SampledTransform.sample(transform, channels=2, seed=seed).apply(IMAGE, label, (12, 10, 14))[0]
        assert torch.equal(image, again)
    assert len({float(image.sum()) for image in images}) > 15


def test_dropout_sets_channels_to_0_as_often_as_asked_and_never_all() -> None:
    chances = (0.6, 0.9, 0.0)
    transform = tio.Compose([RandomModalityDropout(probabilities=chances)])
    image, label = torch.randn(3, 2, 2, 2), torch.zeros(1, 2, 2, 2, dtype=torch.uint8)
    zeros = torch.zeros(3)
    for seed in range(500):
        dropped = SampledTransform.sample(transform, channels=3, seed=seed).apply(image, label, (2, 2, 2))[0]
        missing = (dropped == 0).flatten(1).all(1)
        assert torch.equal(dropped[~missing], image[~missing])
        zeros += missing
    # five standard deviations of a binomial
    for count, chance in zip(zeros.tolist(), chances, strict=True):
        assert abs(count / 500 - chance) <= 5 * (chance * (1 - chance) / 500) ** 0.5
    both = RandomModalityDropout(probabilities=(0.9, 0.99))
    kept = torch.stack([both.get_params(2)["kept"] for _ in range(300)])
    assert (kept.sum(1) >= 1).all() and kept[:, 0].sum() > kept[:, 1].sum()


@pytest.mark.parametrize("chances", [(0.2,), (0.2, 0.3)])
def test_dropout_has_a_probability_for_each_channel(chances: tuple[float, ...]) -> None:
    transform = RandomModalityDropout(probabilities=chances)
    with pytest.raises(ConfigError, match=rf"\] are {len(chances)} for 3 channels; give one for each modality"):
        transform(tio.Subject(image=tio.ScalarImage(tensor=torch.ones(3, 2, 2, 2))))


def test_augmentation_by_name_is_what_the_name_stands_for() -> None:
    ours: Any = build_transform(True, {}, ["flair"])
    assert [type(part) for part in ours.transforms] == [type(part) for part in default_augmentation().transforms]
    named: Any = build_transform("default", {}, ["flair"])
    listed: Any = build_transform([RandomSpatial()], {}, ["flair"])
    assert len(named.transforms) == 4 and len(listed.transforms) == 1
    assert build_transform(False, {}, ["flair"]) is None
    dropped: Any = build_transform("light", {"flair": 0.2}, ["t1ce", "flair"])
    assert dropped.transforms[-1].probabilities == (0.0, 0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augmentation": "heavy"}, r"data\.augmentation=heavy must be one of light, default, strong"),
        ({"modality_dropout": {"pd": 0.2}}, r"data\.modality_dropout=\['pd'\] must be some of flair, t1ce, t2"),
        ({"modality_dropout": {"flair": 1.0}}, r"data\.modality_dropout gives flair the probability 1\.0"),
        ({"modality_dropout": {"flair": float("nan")}}, "gives flair the probability nan"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BratsDataModule(Path("nowhere"), **{"modalities": ["flair", "t1ce", "t2"], **options})


def test_names_and_chances_by_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(BratsDataModule, "data")
    given: dict[str, Any] = {"data": {"root": "x", "modalities": ["flair", "t2"], "augmentation": "strong"}}
    given["data"]["modality_dropout"] = {"flair": 0.2}
    data = parser.instantiate(parser.parse_object(given)).data
    assert len(data.transform.transforms) == 9
    assert len(parser.instantiate(parser.parse_object({"data": {"root": "x"}})).data.transform.transforms) == 4


def test_any_way_to_give_transforms() -> None:
    one, modalities = tio.RandomFlip(), ("flair", "t2")
    for given in (one, [one], (one,), tio.Compose([one])):
        built = build_transform(given, {}, modalities)
        assert isinstance(built, tio.Compose) and built.transforms == [one]
    assert build_transform(None, {}, modalities) is None is build_transform([], {}, modalities)


@pytest.mark.parametrize("key", ["include", "exclude", "keep"])
def test_a_transform_of_an_image_that_a_patch_has_not(key: str) -> None:
    inner = tio.RandomNoise(**{key: {"t1ce": "x"} if key == "keep" else ["t1ce"]})
    for given in ([inner], [tio.Compose([inner])], [tio.OneOf([inner])]):
        with pytest.raises(ConfigError, match=f"RandomNoise.{key} names t1ce; a patch has image, all modalities"):
            build_transform(given, {}, ("flair", "t1ce"))
    build_transform([tio.RandomNoise(include=["image"])], {}, ("flair", "t1ce"))


def test_a_compose_with_a_chance_of_its_own_keeps_it() -> None:
    seldom = tio.Compose([tio.RandomNoise(), tio.Compose([])], p=0.25)
    built = build_transform(seldom, {}, ("flair",))
    assert isinstance(built, tio.Compose) and built.transforms == [seldom] and seldom.probability == 0.25
