"""What computes a network faster on a GPU, against the plain network; the numbers do not depend on the device."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from raum_lightning.models import cuda, layout
from raum_lightning.models.accelerate import accelerate, slow_down
from raum_lightning.models.cuda import normalise
from tests.helpers.networks import MODERN, gradients, image_for, modern, perturbed, small

LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]


def normed(x: Tensor, weight: Tensor | None, bias: Tensor | None, grad: Tensor, *, ours: bool) -> list[Tensor]:
    """Return what x B C X Y Z is normalised to, and the gradients of all that is given."""
    inputs = [one.detach().requires_grad_() for one in (x, weight, bias) if one is not None]
    leaf, scale, shift = (*inputs, None, None)[:3]
    y = normalise(leaf, scale, shift, 1e-5) if ours else F.instance_norm(leaf, None, None, scale, shift)
    return [y, *torch.autograd.grad(y, inputs, grad)]


@pytest.mark.parametrize("memory", LAYOUTS)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(2, 5), *[st.integers(1, 5)] * 2),
    affine=st.booleans(),
    mean=st.floats(-50, 50),
)
def test_norm_and_gradients_are_torchs(
    memory: torch.memory_format, shape: tuple[int, ...], affine: bool, mean: float
) -> None:
    x = torch.randn(shape, dtype=torch.float64) + mean
    weight, bias = torch.randn(2, shape[1], dtype=torch.float64) if affine else (None, None)
    grad = torch.randn_like(x)
    # torch's own gradient is wrong on a CPU for one case with channels last
    expected = normed(x, weight, bias, grad, ours=False)
    found = normed(x.contiguous(memory_format=memory), weight, bias, grad.contiguous(memory_format=memory), ours=True)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    assert found[0].is_contiguous(memory_format=memory)


def test_gradients_are_those_of_differences() -> None:
    x = torch.randn(2, 3, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(2, 3, dtype=torch.float64).requires_grad_().unbind()
    assert torch.autograd.gradcheck(lambda x, weight, bias: normalise(x, weight, bias, 1e-5), (x, weight, bias))
    assert torch.autograd.gradcheck(lambda x: normalise(x, None, None, 1e-5), (x,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mean", [0.0, 20.0])
def test_half_precision_is_rounded_once(dtype: torch.dtype, mean: float) -> None:
    """Against float64; sums and factors are in float32."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(2, 4, 12, 12, 12, generator=generator) + mean).to(dtype)
    weight, bias = torch.rand(2, 4, generator=generator).unbind()
    grad = torch.randn(x.shape, generator=generator).to(dtype)
    found = normed(x, weight, bias, grad, ours=True)
    expected = normed(x.double(), weight.double(), bias.double(), grad.double(), ours=False)
    assert [one.dtype for one in found] == [dtype, dtype, torch.float32, torch.float32]
    # what grad * x is rounded to grows with the mean of x; the gradient of the weight is a sum of that
    bounds = [2, 2, 2 + mean, 2]
    for one, other, bound in zip(found, expected, bounds, strict=True):
        assert (one - other).norm() < bound * torch.finfo(dtype).eps * other.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_channel_without_contrast_is_finite(dtype: torch.dtype) -> None:
    """As a window of background has it: the bias, and no gradient that is NaN."""
    x = torch.full((1, 2, 6, 6, 6), 3.1, dtype=dtype)
    y, d_x, _, _ = normed(x, torch.ones(2), torch.tensor([0.5, -1.0]), torch.ones_like(x), ours=True)
    assert (y[:, 0] - 0.5).abs().max() < 0.1 and (y[:, 1] + 1).abs().max() < 0.1
    assert d_x.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: small(norm="instance_affine"), lambda: modern(**MODERN)])
@pytest.mark.parametrize("memory", LAYOUTS)
def test_logits_and_gradients_are_the_plain_ones(
    monkeypatch: pytest.MonkeyPatch, make: Any, memory: torch.memory_format
) -> None:
    plain = perturbed(make())
    fast = copy.deepcopy(plain)
    accelerate(fast, "cuda")
    assert any(type(part) is cuda.InstanceNorm for part in fast.modules())
    monkeypatch.setattr(layout, "layout_of", lambda dtype, norm, device: memory)
    image = image_for(plain, torch.float64)
    torch.testing.assert_close(gradients(fast, image), gradients(plain, image), rtol=1e-6, atol=1e-9)
    slow_down(fast)
    assert [type(part) for part in fast.modules()] == [type(part) for part in plain.modules()]


@pytest.mark.parametrize(("device", "dtype", "norm", "last"), [
    ("cpu", torch.bfloat16, "instance", True),
    ("cpu", torch.float16, "instance", False),
    ("cuda", torch.float16, "batch", True),
    ("cuda", torch.bfloat16, "group", False),
    ("cuda", torch.float32, "instance", False),
    ("mps", torch.float16, "instance", False),
])  # fmt: skip
def test_channels_are_last_in_half_precision(device: str, dtype: torch.dtype, norm: str, last: bool) -> None:
    assert layout.layout_of(dtype, norm, device) == (torch.channels_last_3d if last else torch.contiguous_format)


def test_shapes_can_be_asked_for_without_numbers() -> None:
    network = small().to("meta")
    accelerate(network, "cuda")
    assert network(torch.empty(2, 3, 16, 16, 16, device="meta")).shape == (2, 4, 16, 16, 16)


@pytest.mark.compile
@pytest.mark.parametrize("make", [small, lambda: modern(**MODERN)])
def test_what_is_compiled_for_a_gpu_is_one_graph(make: Any) -> None:
    """Under autocast too, whose state torch 2.11 cannot be asked for in every way while it compiles."""
    torch._dynamo.reset()
    network = make().float().eval()
    accelerate(network, "cuda", compiled=True)
    image = image_for(network, torch.float32)
    graph = torch.compile(network, backend="eager", dynamic=False, fullgraph=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(graph(image), network(image))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("make", [small, lambda: modern(**MODERN)])
def test_a_gpu_gives_what_the_cpu_gives(make: Any) -> None:
    plain = perturbed(make()).float().eval()
    fast = copy.deepcopy(plain).cuda()
    accelerate(fast, "cuda")
    image = image_for(plain, torch.float32)
    with torch.no_grad():
        expected = plain(image)
        torch.testing.assert_close(fast(image.cuda()).cpu(), expected, rtol=1e-2, atol=1e-2)
        with torch.autocast("cuda", torch.bfloat16):
            in_bf16 = fast(image.cuda()).cpu().float()
    assert (in_bf16 - expected).std() < 0.05 * expected.std()
