"""Augmentation: the random transforms, their parameters, and how far they read."""

import pickle

import pytest
import torch
import torchio as tio
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from raum_lightning.data import augment
from raum_lightning.data.augment import BatchAugmentation, SampledTransform, default_augmentation, margin, samplable

ROI = (20, 16, 18)
EVERYTHING = tio.Compose(
    [
        tio.OneOf({augment.RandomBlur(std=1.0): 2, augment.RandomBiasField(): 1}, p=0.6),
        augment.RandomSpatial(turn_probability=0.5, p_affine=0.7, translation=2, p_elastic=0.6, max_displacement=3),
        augment.RandomGamma(p=0.5),
        augment.RandomNoise(p=0.5),
        augment.RandomScaleShift(p=0.5),
    ]
)
SPATIAL = augment.RandomSpatial(turn_probability=0.3, p_affine=0.8, p_elastic=0.6, max_displacement=(3, 2, 4))

TWICE = tio.Compose([augment.RandomSpatial(p_affine=0.5), augment.RandomSpatial(p_affine=0.5, max_displacement=2)])


def volume(*shape: int, channels: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise, C X Y Z, and labels 0 to 3, 1 X Y Z uint8."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(channels, *shape, generator=generator)
    return image, torch.randint(4, (1, *shape), generator=generator, dtype=torch.uint8)


def as_subject(image: Tensor, label: Tensor) -> tio.Subject:
    return tio.Subject(image=tio.ScalarImage(tensor=image), label=tio.LabelMap(tensor=label))


def through_torchio(transform: tio.Transform, image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    moved = transform(as_subject(image, label))
    return moved["image"].data, moved["label"].data


@pytest.mark.parametrize("seed", range(12))
def test_sampled_and_applied_is_what_torchio_does_after_the_same_seed(seed: int) -> None:
    image, label = volume(18, 18, 18)
    want, want_label = through_torchio(EVERYTHING, image, label, seed)
    got, got_label = SampledTransform.sample(EVERYTHING, channels=2, seed=seed).apply(image, label, (18, 18, 18))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert torch.equal(got_label, want_label)


def test_sampling_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    SampledTransform.sample(EVERYTHING, channels=2, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
@settings(max_examples=50)
@given(
    transform=st.sampled_from([SPATIAL, TWICE]),
    seed=st.integers(0, 2**31),
    start=st.tuples(*[st.integers(-3, n) for n in (20, 16, 12)]),
)
def test_the_window_gives_what_the_whole_volume_gives(
    transform: tio.Transform, seed: int, start: tuple[int, int, int]
) -> None:
    """Also where the patch and its window extend beyond the volume."""
    image, label = volume(36, 30, 28)
    sampled = SampledTransform.sample(transform, channels=2, seed=seed)
    offset = [first + (n - size) / 2 for first, n, size in zip(start, ROI, image.shape[1:], strict=True)]
    want, want_label = sampled.apply(image, label, ROI, offset)
    slices, offset = sampled.window(start, ROI, image.shape[1:])
    got, got_label = sampled.apply(image[:, *slices], label[:, *slices], ROI, offset)
    assert got.shape[1:] == ROI
    torch.testing.assert_close(got, want, atol=1e-3, rtol=0)
    assert (got_label != want_label).float().mean() < 1e-3


def test_the_window_of_flips_is_the_patch() -> None:
    sampled = SampledTransform.sample(augment.RandomSpatial(p_affine=0), channels=1, seed=0)
    slices, offset = sampled.window((5, 6, 7), ROI, (60, 60, 60))
    assert slices == [slice(first, first + n) for first, n in zip((5, 6, 7), ROI, strict=True)]
    assert offset == [0, 0, 0]


@pytest.mark.slow
@settings(max_examples=40)
@given(seed=st.integers(0, 2**31))
def test_the_margin_holds_every_window(seed: int) -> None:
    sides = margin(SPATIAL, ROI)
    slices, _ = SampledTransform.sample(SPATIAL, channels=1, seed=seed).window((50, 50, 50), ROI, (120, 120, 120))
    for part, side, n in zip(slices, sides, ROI, strict=True):
        assert 50 - side <= part.start
        assert part.stop <= 50 + n + side


@pytest.mark.slow
@pytest.mark.parametrize(
    "transform",
    [
        tio.RandomAffine(scales=0.2, degrees=(10, 20, 5)),
        tio.Compose([tio.RandomFlip(), tio.RandomAffine(translation=2), tio.RandomGamma()]),
        tio.OneOf([tio.RandomAffine(degrees=30), tio.RandomNoise()]),
        tio.RandomElasticDeformation(max_displacement=2, locked_borders=0),
        tio.RandomAffineElasticDeformation(elastic_kwargs={"max_displacement": 2}),
        augment.RandomSpatial(max_displacement=2, locked_borders=1),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_nothing_is_read_beyond_the_margin(transform: tio.Transform) -> None:
    """A constant volume stays constant in the patch, which it would not if zeros came in from outside."""
    sides = margin(transform, ROI)
    shape = [n + 2 * side for n, side in zip(ROI, sides, strict=True)]
    ones = torch.ones(1, *shape, dtype=torch.uint8)
    for seed in range(10):
        _, moved = through_torchio(transform, ones.float(), ones, seed)
        assert moved[:, *(slice(side, side + n) for n, side in zip(ROI, sides, strict=True))].all()


def test_the_margin_is_tight() -> None:
    assert margin(tio.Compose([tio.RandomFlip(), augment.RandomGamma()]), ROI) == (0, 0, 0)
    assert margin(augment.RandomSpatial(p_affine=0), ROI) == (0, 0, 0)
    # a volume that is shrunk to 0.8 is read from 1.25 times the patch: 24.75 of 19.5 voxels each side of the centre
    assert margin(augment.RandomSpatial(degrees=0, scales=0.2), (40, 40, 40)) == (5, 5, 5)
    assert margin(tio.RandomAffine(degrees=0, scales=0, translation=3), (40, 40, 40)) == (3, 3, 3)
    # of a displacement of 6 a sixth is left at a face with two layers of control points locked
    elastic = augment.RandomSpatial(p_affine=0, max_displacement=6)
    assert margin(elastic, (40, 40, 40)) == (1, 1, 1)


@pytest.mark.parametrize("seed", range(25))
def test_masks_stay_on_their_images(seed: int) -> None:
    """A bright ball and its mask are moved, turned, scaled and deformed together."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(40.0)] * 3, indexing="ij"))
    ball = ((grid - torch.tensor([17.0, 22.0, 21.0]).view(3, 1, 1, 1)).norm(dim=0) < 8)[None]
    moved, label = SampledTransform.sample(SPATIAL, channels=1, seed=seed).apply(
        ball.float(), ball.to(torch.uint8), (40, 40, 40)
    )
    bright, mask = moved > 0.5, label > 0
    assert mask.sum() > 500
    assert 2 * (bright & mask).sum() / (bright.sum() + mask.sum()) > 0.97
    centres = [(grid * part).flatten(1).sum(1) / part.sum() for part in (bright, mask)]
    assert (centres[0] - centres[1]).norm() < 0.15


def test_labels_keep_type_and_values_and_inputs_are_not_written_to() -> None:
    image, label = volume(*ROI)
    copies = image.clone(), label.clone()
    for seed in range(20):
        _, moved = SampledTransform.sample(EVERYTHING, channels=2, seed=seed).apply(image, label, ROI)
        assert moved.dtype == torch.uint8
        assert moved.max() <= 3
    assert torch.equal(image, copies[0])
    assert torch.equal(label, copies[1])


def test_a_batch_is_its_samples() -> None:
    batch = BatchAugmentation(EVERYTHING, roi_size=ROI)
    samples = [volume(30, 28, 26, seed=i) for i in range(4)]
    images, labels = torch.stack([image for image, _ in samples]), torch.cat([label for _, label in samples])
    moved, moved_labels = batch(images, labels, [5, 6, 7, 8])
    assert moved.shape == (4, 2, *ROI)
    for i, (image, label) in enumerate(samples):
        want, want_label = SampledTransform.sample(EVERYTHING, channels=2, seed=5 + i).apply(image, label, ROI)
        assert torch.equal(moved[i], want)
        assert torch.equal(moved_labels[i], want_label[0])


def test_a_batch_takes_windows_in_half_precision() -> None:
    image, label = volume(40, 40, 40)
    several = [SampledTransform.sample(SPATIAL, channels=2, seed=seed) for seed in (1, 2)]
    windows = [sampled.window((3, 4, 5), ROI, (40, 40, 40)) for sampled in several]
    images = [image[:, *slices].half() for slices, _ in windows]
    labels = [label[:, *slices][0] for slices, _ in windows]
    moved, _ = BatchAugmentation(SPATIAL, roi_size=ROI)(images, labels, [1, 2], [offset for _, offset in windows])
    assert moved.dtype == torch.float32
    want, _ = several[1].apply(images[1], labels[1][None], ROI, windows[1][1])
    assert torch.equal(moved[1], want)


def test_what_cannot_be_sampled() -> None:
    assert samplable(EVERYTHING)
    assert samplable(default_augmentation())
    assert not samplable(tio.Compose([augment.RandomGamma(), tio.RandomGamma()]))
    assert not samplable(augment.RandomGamma(include=["t1"]))
    with pytest.raises(ValueError, match="RandomMotion"):
        BatchAugmentation(tio.Compose([tio.RandomMotion()]), roi_size=ROI)


def test_include_and_several_images_as_torchio() -> None:
    image, label = volume(*ROI)
    subject = tio.Subject(
        a=tio.ScalarImage(tensor=image), b=tio.ScalarImage(tensor=image), c=tio.LabelMap(tensor=label)
    )
    torch.manual_seed(0)
    changed = tio.Compose([augment.RandomGamma(include=["a"]), augment.RandomSpatial()])(subject)
    assert (changed["a"].data == 0).any()  # what came in from outside
    assert not torch.equal(changed["a"].data, changed["b"].data)
    assert torch.equal(changed["a"].data == 0, changed["b"].data == 0)


@pytest.mark.slow
def test_parameters_fill_their_ranges() -> None:
    torch.manual_seed(0)
    gammas = torch.cat([augment.RandomGamma(log_gamma=0.3).get_params(3)["gamma"] for _ in range(500)]).log()
    assert gammas.abs().max() <= 0.3
    assert gammas.std() == pytest.approx(0.6 / 12**0.5, rel=0.05)
    noises = [augment.RandomNoise(std=(0.1, 0.2)).get_params(1)["std"].item() for _ in range(500)]
    assert min(noises) >= 0.1
    assert max(noises) <= 0.2
    turns = torch.stack(
        [augment.RandomSpatial(flip_axes=(0, 2)).get_params()["permutation"].diagonal() for _ in range(500)]
    )
    assert (turns[:, 1] == 1).all()
    assert (turns[:, [0, 2]] < 0).float().mean(0) == pytest.approx([0.5, 0.5], abs=0.07)
    isotropic = augment.RandomSpatial(degrees=0, isotropic=True).get_params()["affine"].diagonal()
    assert isotropic.unique().numel() == 1


def test_yaml_gives_transforms_with_torchios_own_arguments() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--augmentation", type=list[tio.Transform])
    name = augment.__name__
    config = parser.parse_object(
        {
            "augmentation": [
                {
                    "class_path": "torchio.OneOf",
                    "init_args": {
                        "transforms": [{"class_path": f"{name}.RandomBlur"}, {"class_path": f"{name}.RandomBiasField"}]
                    },
                },
                {
                    "class_path": f"{name}.RandomSpatial",
                    "init_args": {
                        "flip_axes": [0, 1],
                        "scales": [0.9, 1.2],
                        "degrees": [5, 10, 15],
                        "max_displacement": 4,
                    },
                },
                {"class_path": f"{name}.RandomNoise", "init_args": {"std": [0, 0.1], "p": 0.15, "exclude": ["t1"]}},
            ]
        }
    )
    one_of, spatial, noise = parser.instantiate(config).augmentation
    assert [type(part) for part in one_of.transforms_dict] == [augment.RandomBlur, augment.RandomBiasField]
    assert spatial.scales == (0.9, 1.2, 0.9, 1.2, 0.9, 1.2)
    assert spatial.degrees == (-5, 5, -10, 10, -15, 15)
    assert spatial.max_displacement == (4, 4, 4)
    assert (noise.probability, noise.exclude) == (0.15, ["t1"])
    wrong = {"augmentation": [{"class_path": f"{name}.RandomGamma", "init_args": {"gamma": 2}}]}
    with pytest.raises(ArgumentError, match="gamma"):
        parser.parse_object(wrong)


def test_bias_field_of_each_channel() -> None:
    together, apart = (augment.RandomBiasField(each_channel=each, p=1).get_params(3) for each in (False, True))
    assert together["coefficients"].shape == (4, 4, 4)
    assert apart["coefficients"].shape == (3, 4, 4, 4)
    assert apart["coefficients"][:, 1, 1, 1].count_nonzero() == 3
    assert apart["coefficients"][:, 2, 1, 1].count_nonzero() == 0  # beyond the order
    changed = augment.RandomBiasField(each_channel=True, p=1).apply(torch.ones(3, *ROI), apart)
    assert not torch.equal(changed[0], changed[1])


def test_the_default_is_repeatable_picklable_and_within_a_seed() -> None:
    transform = default_augmentation()
    image, label = volume(16, 16, 16)
    first = through_torchio(transform, image, label, seed=3)
    again = through_torchio(pickle.loads(pickle.dumps(transform)), image, label, seed=3)
    other = through_torchio(transform, image, label, seed=5)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flip_axes": (3,)}, "flip_axes"),
        ({"locked_borders": 3}, "locked_borders"),
        ({"num_control_points": 4}, "num_control_points=4"),
        ({"scales": (1.2, 0.8)}, "scales"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        augment.RandomSpatial(**arguments)
