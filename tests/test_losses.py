import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from raum_lightning import losses
from raum_lightning.datasets import IGNORED, parse
from raum_lightning.labels import ED, ET, NCR, RC, to_regions
from raum_lightning.losses import DiceCELoss, WithChannel, deep_supervision
from tests.helpers.ranks import in_two_processes

LOG2, LOG3 = math.log(2), math.log(3)


def random_case(batch: int, channels: int, *shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, channels, *shape, dtype=torch.float64, generator=generator)
    return logits.requires_grad_(), torch.randint(channels, (batch, *shape), dtype=torch.uint8, generator=generator)


def value_and_gradient(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    value = loss(logits, labels)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def monai_dice_ce(**options: bool) -> torch.nn.Module:
    from monai.losses.dice import DiceCELoss  # here, because the ranks of the DDP test import this file as well

    return DiceCELoss(softmax=True, squared_pred=True, smooth_nr=1e-5, smooth_dr=1e-5, **options)


def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven voxels per sample and chunk, so that a small case has many, the last one shorter."""
    monkeypatch.setattr(losses, "_CPU_CHUNK", 14)


# logits of B=1 samples by channel, labels, and the loss by hand with smooth=0. Dice is the mean over the classes of
# 2 sum(GY) / (sum(G^2) + sum(Y^2)); cross-entropy the mean over the voxels of -log Y at the label.
LABELS = [
    # two even voxels: both classes 2 (1/2) / (1 + 2/4) = 2/3
    ([[0.0, 0.0], [0.0, 0.0]], [0, 1], 1 - 2 / 3 + LOG2),
    # the same, all background: class 0 has 2 (1) / (2 + 1/2) = 4/5, class 1, absent, 0 / (0 + 1/2)
    ([[0.0, 0.0], [0.0, 0.0]], [0, 0], 1 - (4 / 5 + 0) / 2 + LOG2),
    # Y = 3/4, 1/4 at one voxel of class 0: 2 (3/4) / (1 + 9/16) = 24/25, and 0
    ([[LOG3], [0.0]], [0], 1 - 24 / 25 / 2 + math.log(4 / 3)),
    # Y_0 = 3/4, 1/4 and Y_1 = 1/4, 3/4, both right: both classes 2 (3/4) / (1 + 10/16) = 12/13
    ([[LOG3, 0.0], [0.0, LOG3]], [0, 1], 1 - 12 / 13 + math.log(4 / 3)),
    # three classes, even: 2 (1/3) / (1 + 1/9) = 3/5 for the one present
    ([[0.0], [0.0], [0.0]], [2], 1 - 3 / 5 / 3 + LOG3),
]

# the same for regions: three channels WT, TC, ET, Y = 1/2 everywhere unless said, binary cross-entropy over channels
REGIONS = [
    # all background: every region 0 / (0 + 1/4)
    ([[0.0], [0.0], [0.0]], [0], 1 + LOG2),
    # ED is WT only: 2 (1/2) / (1 + 1/4) = 4/5
    ([[0.0], [0.0], [0.0]], [ED], 1 - 4 / 5 / 3 + LOG2),
    ([[0.0], [0.0], [0.0]], [NCR], 1 - 2 * (4 / 5) / 3 + LOG2),
    ([[0.0], [0.0], [0.0]], [ET], 1 - 4 / 5 + LOG2),
    # the resection cavity is in no region
    ([[0.0], [0.0], [0.0]], [RC], 1 + LOG2),
    # Y = 3/4 in WT, right: 24/25 for Dice and log(4/3) for its share of the cross-entropy
    ([[LOG3], [0.0], [0.0]], [ED], 1 - 24 / 25 / 3 + (math.log(4 / 3) + 2 * LOG2) / 3),
]


@pytest.mark.parametrize(
    ("mode", "logits", "labels", "expected"),
    [("labels", *row) for row in LABELS] + [("regions", *row) for row in REGIONS],
)
def test_closed_form(mode: losses.Mode, logits: list[list[float]], labels: list[int], expected: float) -> None:
    loss = DiceCELoss(mode=mode, smooth=0)
    logits_5d = torch.tensor(logits, dtype=torch.float64)[None, :, :, None, None]
    assert loss(logits_5d, torch.tensor(labels)[None, :, None, None]).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("batch", "dice"),
    [
        # even logits, one voxel per sample, labels 0 and 1; a sample: 2 (1/2) / (1 + 1/4) = 4/5 for its class and 0
        (False, (4 / 5 + 0) / 2),
        # the sums over both samples: 2 (1/2) / (1 + 2/4) for either class
        (True, 2 / 3),
    ],
)
def test_closed_form_of_a_batch(batch: bool, dice: float) -> None:
    labels = torch.tensor([0, 1]).view(2, 1, 1, 1)
    value = DiceCELoss(batch=batch, smooth=0)(torch.zeros(2, 2, 1, 1, 1, dtype=torch.float64), labels)
    assert value.item() == pytest.approx(1 - dice + LOG2, abs=1e-12)


def test_smooth_counts_an_absent_class_as_found() -> None:
    logits = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1, 1)
    labels = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    assert DiceCELoss()(logits, labels).item() == pytest.approx(0, abs=1e-6)
    # class 1: (0 + 1) / (1/4 + 1), class 0: (2 (1/2) + 1) / (1 + 1/4 + 1)
    even = DiceCELoss(smooth=1)(torch.zeros_like(logits), labels)
    assert even.item() == pytest.approx(1 - (4 / 5 + 8 / 9) / 2 + LOG2, abs=1e-6)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    samples=st.integers(1, 3),
    channels=st.integers(2, 6),
    batch=st.booleans(),
    chunk=st.sampled_from([1, 14, 10**6]),
    seed=st.integers(0, 2**16),
)
def test_equals_monai(
    shape: tuple[int, int, int], samples: int, channels: int, batch: bool, chunk: int, seed: int
) -> None:
    logits, labels = random_case(samples, channels, *shape, seed=seed)
    reference = monai_dice_ce(batch=batch)
    one_hot = functional.one_hot(labels.long(), channels).movedim(-1, 1).double()  # its own is float32, and inexact
    expected, expected_gradient = value_and_gradient(reference, logits, one_hot)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "_CPU_CHUNK", chunk)
        value, gradient = value_and_gradient(DiceCELoss(batch=batch), logits, labels)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)


def test_equals_monai_as_users_call_it() -> None:
    logits, labels = random_case(2, 4, 12, 10, 8)
    logits = logits.detach().float().requires_grad_()
    monai = monai_dice_ce(to_onehot_y=True)
    expected = value_and_gradient(lambda x, y: monai(x, y[:, None]), logits, labels)
    torch.testing.assert_close(value_and_gradient(DiceCELoss(), logits, labels), expected, rtol=1e-5, atol=1e-8)


def plain_regions(logits: Tensor, labels: Tensor, batch: bool) -> Tensor:
    target = to_regions(labels).to(logits.dtype)
    axes = (0, 2, 3, 4) if batch else (2, 3, 4)
    y = logits.sigmoid()
    dice = (2 * (target * y).sum(axes) + 1e-5) / ((target**2 + y**2).sum(axes) + 1e-5)
    return 1 - dice.mean() + functional.binary_cross_entropy_with_logits(logits, target)


@pytest.mark.parametrize("batch", [False, True])
def test_regions_equal_the_plain_formula(monkeypatch: pytest.MonkeyPatch, batch: bool) -> None:
    small_chunks(monkeypatch)
    logits, _ = random_case(2, 3, 5, 4, 3)
    labels = torch.randint(5, (2, 5, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = value_and_gradient(lambda x, y: plain_regions(x, y, batch), logits, labels)
    actual = value_and_gradient(DiceCELoss(mode="regions", batch=batch), logits, labels)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["labels", "regions"])
def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_does(mode: losses.Mode) -> None:
    labels = torch.randint(4, (2, 6, 5, 4), generator=torch.Generator().manual_seed(0))
    right = functional.one_hot(labels, 4).movedim(-1, 1).bool() if mode == "labels" else to_regions(labels)
    logits = torch.where(right, 50.0, -50.0)
    assert DiceCELoss(mode=mode)(logits, labels).item() == pytest.approx(0, abs=1e-6)
    assert DiceCELoss(mode=mode)(-logits, labels).item() > 10


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize(("mode", "channels"), [("labels", 4), ("regions", 3)])
def test_gradient_by_finite_differences(
    monkeypatch: pytest.MonkeyPatch, mode: losses.Mode, channels: int, batch: bool
) -> None:
    small_chunks(monkeypatch)
    logits, labels = random_case(2, channels, 3, 2, 2)
    assert torch.autograd.gradcheck(lambda x: 3 * DiceCELoss(mode=mode, batch=batch)(x, labels), logits)


@pytest.mark.parametrize(("mode", "channels"), [("labels", 4), ("regions", 3)])
@pytest.mark.parametrize("magnitude", [0.0, 1e2, 1e4, 1e30])
@pytest.mark.parametrize("wrong", [False, True])
def test_finite_on_background_and_for_huge_logits(
    mode: losses.Mode, channels: int, magnitude: float, wrong: bool
) -> None:
    logits = torch.full((2, channels, 4, 4, 4), magnitude if wrong else -magnitude)
    if mode == "labels":
        logits[:, 0] *= -1
    value, gradient = value_and_gradient(DiceCELoss(mode=mode), logits.requires_grad_(), torch.zeros(2, 4, 4, 4).byte())
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(dtype: torch.dtype) -> None:
    logits, labels = random_case(2, 4, 9, 8, 7)
    half = logits.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(DiceCELoss(), half, labels)
    expected, expected_gradient = value_and_gradient(DiceCELoss(), half.detach().float().requires_grad_(), labels)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(value, expected)
    assert torch.equal(gradient, expected_gradient.to(dtype))


def test_uint8_and_int64_labels_are_the_same_and_stay_as_they_are() -> None:
    logits, labels = random_case(2, 4, 5, 4, 3)
    logits_before, labels_before = logits.detach().clone(), labels.clone()
    value, gradient = value_and_gradient(DiceCELoss(), logits, labels)
    torch.testing.assert_close(
        value_and_gradient(DiceCELoss(), logits, labels.long()), (value, gradient), rtol=0, atol=0
    )
    assert torch.equal(labels, labels_before)
    assert torch.equal(logits, logits_before)


def test_any_memory_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    logits, labels = random_case(2, 4, 5, 4, 3)
    expected = value_and_gradient(DiceCELoss(), logits, labels)
    channels_last = logits.detach().contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    crossed = logits.detach().transpose(2, 4).contiguous().transpose(2, 4).requires_grad_()
    for other in (channels_last, crossed):
        assert not other.is_contiguous()
        torch.testing.assert_close(value_and_gradient(DiceCELoss(), other, labels), expected, rtol=0, atol=1e-14)


FOUR = parse(
    {
        "name": "four",
        "images": {"a": "{case}"},
        "labels": {1: "A", 2: "B", 3: "C"},
        "regions": {"AB": ["A", "B"], "BC": ["B", "C"], "C": ["C"], "ABC": ["A", "B", "C"]},
        "ignore": 255,
    },
    "four",
)


@pytest.mark.parametrize(("mode", "channels"), [("labels", 4), ("regions", 4)])
@pytest.mark.parametrize("batch", [False, True])
def test_ignored_voxels_are_as_if_they_were_not_there(
    mode: losses.Mode, channels: int, batch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    logits, labels = random_case(2, channels, 4, 3, 6)
    labels[..., 4:] = IGNORED
    loss = DiceCELoss(mode=mode, batch=batch)
    loss.follow(FOUR)
    value, gradient = value_and_gradient(loss, logits, labels)
    expected, part = value_and_gradient(loss, logits[..., :4], labels[..., :4])
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient[..., :4], part, rtol=0, atol=1e-12)
    assert not gradient[..., 4:].any()
    plain = DiceCELoss(mode=mode, batch=batch)
    if mode == "labels":
        torch.testing.assert_close(plain(logits[..., :4], labels[..., :4]), expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"class index 255|needs 3"):
        plain(logits, labels)


def test_regions_are_those_of_the_data_set() -> None:
    """Regions may overlap without nesting: a perfect prediction of each has no loss."""
    labels = torch.tensor([0, 1, 2, 3], dtype=torch.uint8).view(1, 4, 1, 1)
    members = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1], [0, 1, 1, 1]], dtype=torch.float64)
    loss = DiceCELoss(mode="regions")
    loss.follow(FOUR)
    assert loss((members.view(1, 4, 4, 1, 1) - 0.5) * 200, labels).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.compile
@pytest.mark.parametrize(("mode", "channels"), [("labels", 4), ("regions", 3)])
def test_compiles(mode: losses.Mode, channels: int) -> None:
    logits, labels = random_case(2, channels, 4, 3, 2)
    loss = DiceCELoss(mode=mode)
    compiled = torch.compile(loss, backend="aot_eager")
    expected = value_and_gradient(loss, logits, labels)
    torch.testing.assert_close(value_and_gradient(compiled, logits, labels), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("mode", "channels", "label", "message"),
    [
        ("labels", 4, 4, r"class index 4 .* 4 classes 0\.\.\.3"),
        ("labels", 4, -1, r"class index -1 .* 4 classes"),
        ("regions", 3, 5, r"class index 5 .* 5 classes"),
        ("regions", 4, 0, r"logits have 4 channels; mode='regions' needs 3: WT, TC, ET"),
    ],
)
def test_a_class_without_a_channel_is_named(mode: losses.Mode, channels: int, label: int, message: str) -> None:
    labels = torch.zeros(1, 2, 2, 2, dtype=torch.int64)
    labels[0, 1, 0, 1] = label
    with pytest.raises(ValueError, match=message):
        DiceCELoss(mode=mode)(torch.zeros(1, channels, 2, 2, 2), labels)


def test_an_accelerator_is_asked_for_class_indices_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_calls_between_looks", lambda device: 3)
    logits, right, wrong = torch.zeros(1, 4, 2, 2, 2), torch.zeros(1, 2, 2, 2).byte(), torch.full((1, 2, 2, 2), 7)
    with pytest.raises(ValueError, match="class index 7"):
        DiceCELoss()(logits, wrong)  # the first call looks

    loss = DiceCELoss()
    for labels in (right, wrong, right):
        loss(logits, labels)
    with pytest.raises(ValueError, match="class index 7"):
        loss(logits, right)


def test_shapes_and_options_that_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match=r"\(1, 1, 2, 2, 2\) do not fit logits of \(1, 4, 2, 2, 2\)"):
        DiceCELoss()(torch.zeros(1, 4, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2).byte())
    with pytest.raises(ValueError, match="mode='softmax'"):
        DiceCELoss(mode="softmax")
    with pytest.raises(ValueError, match="batch=True"):
        DiceCELoss(across_ranks=True)


def train_one_rank(rank: int, folder: Path) -> None:
    """DDP on one sample of two: what `batch` alone and `across_ranks` compute, and the latter in evaluation."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    images, labels = random_case(2, 4, 4, 3, 2)
    network = DistributedDataParallel(scale_by_channel())
    results: dict[bool | str, Any] = {}
    for across_ranks in (False, True):
        loss = DiceCELoss(batch=True, across_ranks=across_ranks)
        network.zero_grad()
        value = loss(network(images[rank, None]), labels[rank, None])
        value.backward()
        gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
        results[across_ranks] = value.detach(), *gradients
    if rank == 0:  # alone: evaluation must not wait for the other
        results["evaluated"] = loss.eval()(images[:1], labels[:1]).detach()
    torch.save(results, folder / f"{rank}.pt")
    del network  # while its process group is there, or torch may hang
    distributed.destroy_process_group()


def scale_by_channel() -> torch.nn.Conv3d:
    torch.manual_seed(0)
    return torch.nn.Conv3d(4, 4, 1, bias=False, dtype=torch.float64)


@pytest.mark.distributed
def test_batch_is_the_ranks_own_or_everybodys(tmp_path: Path) -> None:
    in_two_processes(train_one_rank, tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    images, labels = random_case(2, 4, 4, 3, 2)
    network = scale_by_channel()

    def single(batch: bool) -> tuple[Tensor, Tensor]:
        value = DiceCELoss(batch=batch)(network(images), labels)
        return value.detach(), torch.autograd.grad(value, network.weight)[0]

    # one sample per rank: the rank's own batch is the sample, so the mean over ranks is the mean over samples
    for across_ranks, batch in ((False, False), (True, True)):
        value, gradient = single(batch)
        torch.testing.assert_close((ranks[0][across_ranks][0] + ranks[1][across_ranks][0]) / 2, value)
        for rank in ranks:
            torch.testing.assert_close(rank[across_ranks][1], gradient, rtol=0, atol=1e-12)
    assert not torch.allclose(ranks[0][False][1], ranks[0][True][1], atol=1e-6)
    assert torch.equal(ranks[0]["evaluated"], DiceCELoss(batch=True)(images[:1], labels[:1]).detach())


def test_deep_supervision_halves_the_weight_at_each_resolution() -> None:
    torch.manual_seed(0)
    labels = torch.randint(4, (2, 8, 4, 4), dtype=torch.uint8)
    logits = [torch.randn(2, 4, 8 // step, 4 // step, 4 // step) for step in (1, 2, 4)]
    loss = DiceCELoss()
    one, half, quarter = (loss(x, labels[:, ::step, ::step, ::step]) for x, step in zip(logits, (1, 2, 4), strict=True))
    expected = (one + half / 2 + quarter / 4) / (1 + 1 / 2 + 1 / 4)
    torch.testing.assert_close(deep_supervision(loss, logits, labels), expected)
    assert torch.equal(deep_supervision(loss, logits[:1], labels), one)


def test_deep_supervision_is_zero_where_all_resolutions_are_right() -> None:
    labels = torch.randint(4, (1, 8, 8, 8))
    logits = [100.0 * functional.one_hot(labels[:, ::step, ::step, ::step]).movedim(-1, 1) for step in (1, 2, 4)]
    assert deep_supervision(torch.nn.CrossEntropyLoss(), logits, labels).item() == pytest.approx(0, abs=1e-6)


def test_a_loss_of_monai_gets_the_channel_that_it_wants() -> None:
    wanted = monai_dice_ce(to_onehot_y=True)
    logits, labels = torch.randn(2, 4, 3, 3, 3), torch.randint(4, (2, 3, 3, 3))
    assert torch.equal(WithChannel(wanted)(logits, labels), wanted(logits, labels[:, None]))
