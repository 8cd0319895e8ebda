"""Groups of parameters, schedules, optimisers: literal numbers, torch's own steps, the keys through the trainer."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks import nets
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, StepLR

from raum_lightning import SegmentationModule
from raum_lightning.cli import main
from raum_lightning.errors import ConfigError
from raum_lightning.training.optimizers import MuonAdamW, follow_schedule, parameter_groups
from raum_lightning.training.schedule import warmup_polynomial
from tests.helpers import DEBUG
from tests.helpers.networks import MODERN, modern, small


def scales(layer_decay: float) -> dict[str, float]:
    network = small()
    groups = parameter_groups(network, no_decay=False, layer_decay=layer_decay)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {names[id(one)]: group.get("lr_scale", 1.0) for group in groups for one in group["params"]}


def test_a_scheduler_that_ends_before_the_run_is_refused() -> None:
    module = SegmentationModule(small(), lr_scheduler=partial(OneCycleLR, max_lr=1e-3, total_steps=9))
    _, scheduler = module.recipe.build(module, lambda: 10)
    module.recipe.check_length(9, scheduler)
    with pytest.raises(ConfigError, match="OneCycleLR ends after total_steps=9, and the run has 10 steps: give it as"):
        module.recipe.check_length(10, scheduler)


def test_a_cosine_that_rises_again_and_gradients_that_are_not_sparse(caplog: pytest.LogCaptureFixture) -> None:
    module = SegmentationModule(small(), lr_scheduler=partial(CosineAnnealingLR, T_max=9))
    _, scheduler = module.recipe.build(module, lambda: 10)
    module.recipe.check_length(9, scheduler)
    assert not caplog.text
    module.recipe.check_length(10, scheduler)
    assert "CosineAnnealingLR falls for T_max=9 steps and rises again, and the run has 10 steps" in caplog.text
    module = SegmentationModule(small(), optimizer=torch.optim.SparseAdam)
    with pytest.raises(ConfigError, match="SparseAdam is for sparse gradients"):
        module.recipe.build(module, lambda: 10)


def test_keys_that_have_no_effect() -> None:
    assert SegmentationModule(small()).recipe.unused == {}
    module = SegmentationModule(small(), optimizer=torch.optim.SGD, lr_scheduler=partial(StepLR, step_size=1))
    assert module.recipe.unused == {
        "optimizer": ("lr", "weight_decay", "betas"),
        "lr_scheduler": ("warmup_steps", "schedule"),
    }


def test_one_group_where_nothing_differs() -> None:
    network = small()
    (group,) = parameter_groups(network, no_decay=False, layer_decay=1.0)
    assert list(map(id, group["params"])) == list(map(id, network.parameters())) and group.keys() == {"params"}


def test_vectors_and_positions_do_not_decay() -> None:
    network = small()
    plain, decaying = parameter_groups(network, no_decay=True, layer_decay=1.0)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert plain["weight_decay"] == 0 and "weight_decay" not in decaying
    free = {names[id(one)] for one in plain["params"]}
    assert {"vit.pos_embed", "vit.norm.weight", "vit.blocks.0.norm1.bias", "head.bias"} <= free
    assert all(names[id(one)].endswith("weight") and one.ndim > 1 for one in decaying["params"])


def test_nor_do_the_factors_of_the_modern_network() -> None:
    network = modern(**MODERN)
    decaying, plain = parameter_groups(network, no_decay=True, layer_decay=1.0)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    free = {names[id(one)] for one in plain["params"]}
    assert {f"projections.{level}.factor" for level in range(3)} | {"vit.blocks.0.scale1.factor"} <= free
    assert plain["weight_decay"] == 0
    assert all(names[id(one)].endswith("weight") for one in decaying["params"])


def test_the_rate_falls_towards_the_input() -> None:
    found = scales(0.5)
    assert found["head.weight"] == found["vit.norm.weight"] == found["levels.0.up.weight"] == 1
    # four blocks: the last is one layer away from the decoder, the embedding five
    assert [found[f"vit.blocks.{block}.norm1.weight"] for block in range(4)] == [1 / 16, 1 / 8, 1 / 4, 1 / 2]
    assert found["vit.pos_embed"] == found["vit.patch_embed.weight"] == 1 / 32


def test_layer_decay_needs_layers() -> None:
    with pytest.raises(ConfigError, match=r"module\.layer_decay=0\.5 is for networks with vit\.blocks"):
        parameter_groups(nn.Conv3d(1, 1, 1), no_decay=False, layer_decay=0.5)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1 / 5),
        (4, 1.0),  # the fall starts at its top
        (54, 0.5**0.9),  # half way
        (104, 0.0),
        (200, 0.0),
    ],
)
def test_polynomial_fall(step: int, factor: float) -> None:
    assert warmup_polynomial(step, warmup_steps=4, total_steps=104) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"betas": (0.9, 1.0)}, r"module\.betas=\[0\.9, 1\.0\] must be"),
        ({"layer_decay": 0.0}, r"module\.layer_decay=0\.0 is not in"),
        ({"schedule": "linear"}, r"module\.schedule='linear' is none of cosine, polynomial"),
    ],
)
def test_values_that_cannot_be_used(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SegmentationModule(small(), **wrong)


def test_rates_and_decay_of_the_default_optimiser() -> None:
    module = SegmentationModule(small(), lr=0.25, weight_decay=0.5, no_decay=True, layer_decay=0.5, warmup_steps=3)
    optimizer, _ = module.recipe.build(module, lambda: 10)
    assert isinstance(optimizer, torch.optim.AdamW)
    # at step 0 the warm-up's factor is 1/4
    assert {(group["lr"], group["weight_decay"]) for group in optimizer.param_groups} == {
        (0.25 / 4 * 0.5**layers, decay) for layers in range(6) for decay in (0, 0.5)
    }


def test_an_optimiser_of_the_users_gets_groups_and_keeps_its_rate() -> None:
    module = SegmentationModule(small(), no_decay=True, optimizer=lambda params: torch.optim.SGD(params, lr=0.5))
    optimizer, _ = module.recipe.build(module, lambda: 1000)
    assert isinstance(optimizer, torch.optim.SGD) and len(optimizer.param_groups) == 2
    assert {group["initial_lr"] for group in optimizer.param_groups} == {0.5}


def test_a_scheduler_that_waits_for_a_score_is_refused() -> None:
    module = SegmentationModule(small(), lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)
    with pytest.raises(ConfigError, match=r"module\.lr_scheduler=ReduceLROnPlateau needs a validation score"):
        module.recipe.build(module, lambda: 10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"lr_scheduler": partial(OneCycleLR, max_lr=1e-3)},
            r"module\.lr_scheduler: You must define either total",
        ),
        ({"optimizer": torch.optim.LBFGS, "no_decay": True}, r"module\.optimizer: LBFGS doesn't support per-parameter"),
        (
            {"lr_scheduler": partial(OneCycleLR, max_lr=1e-3, total_steps=9), "layer_decay": 0.5},
            r"module\.layer_decay=0\.5 has no effect with OneCycleLR",
        ),
        ({"lr_scheduler": partial(CosineAnnealingLR, T_max=9), "layer_decay": 0.5}, None),
    ],
)
def test_what_torch_refuses_or_undoes_is_said(options: dict[str, Any], said: str | None) -> None:
    module = SegmentationModule(small(), **options)
    if said is None:
        optimizer, _ = module.recipe.build(module, lambda: 10)
        assert {group["lr"] for group in optimizer.param_groups} == {1e-4 * 0.5**layers for layers in range(6)}
        return
    with pytest.raises(ConfigError, match=said):
        module.recipe.build(module, lambda: 10)


class Bare:
    """A scheduler of the user's own, which notes nothing in the groups."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer


def test_schedulers_and_rates_of_ones_own_pass() -> None:
    def optimizer(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD([group | {"lr": 0.1 + place} for place, group in enumerate(groups)])

    module = SegmentationModule(small(), optimizer=optimizer, no_decay=True, lr_scheduler=Bare)
    built, scheduler = module.recipe.build(module, lambda: 10)
    assert isinstance(scheduler, Bare) and [group["lr"] for group in built.param_groups] == [0.1, 1.1]


def test_positions_of_monai_do_not_decay() -> None:
    network = nets.SwinUNETR(1, 2, feature_size=12)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, no_decay=True, layer_decay=1.0)
    free = {names[id(one)] for group in groups if group.get("weight_decay") == 0 for one in group["params"]}
    tables = {name for name in names.values() if "position" in name}
    assert tables and tables <= free


def test_a_longer_schedule_is_followed_and_an_equal_one_changes_nothing() -> None:
    def schedule(steps: int) -> LambdaLR:
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=2.0)
        return LambdaLR(optimizer, lambda step: 1 - step / steps)

    short = schedule(4)
    for _ in range(4):
        short.optimizer.step()
        short.step()
    longer = schedule(8)
    longer.optimizer.load_state_dict(short.optimizer.state_dict())
    longer.load_state_dict(short.state_dict())
    assert longer.optimizer.param_groups[0]["lr"] == 0
    assert follow_schedule(longer) == (0.0, 1.0)  # 2 (1 - 4/8)
    assert longer.optimizer.param_groups[0]["lr"] == longer.get_last_lr()[0] == 1.0
    assert follow_schedule(longer) is None
    assert follow_schedule(StepLR(longer.optimizer, 1)) is None


class Two(nn.Module):
    """A matrix and what is none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(6, 4)
        self.conv = nn.Conv3d(1, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).square().sum() + self.conv(x.view(1, 1, 1, -1, 6)).square().sum()


def steps(network: nn.Module, optimizers: list[torch.optim.Optimizer], count: int, rate: float = 0.1) -> None:
    for step in range(count):
        for optimizer in optimizers:
            optimizer.zero_grad()
        network(torch.linspace(-1, 1, 12).view(2, 6)).backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate / (step + 1)
            optimizer.step()


def test_muon_for_matrices_and_adamw_for_the_rest() -> None:
    ours, theirs = Two(), Two()
    steps(ours, [MuonAdamW(ours.parameters(), lr=0.1, weight_decay=0.2)], 3)
    matrix, rest = [theirs.linear.weight], [theirs.linear.bias, *theirs.conv.parameters()]
    muon = torch.optim.Muon(matrix, lr=0.1, weight_decay=0.2, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=0.1, weight_decay=0.2, betas=(0.9, 0.95))
    steps(theirs, [muon, adamw], 3)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_muon_resumes_from_its_state(tmp_path: Path) -> None:
    whole, half = Two(), Two()
    first = MuonAdamW(whole.parameters())
    steps(whole, [first], 2)
    half.load_state_dict(whole.state_dict())
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = MuonAdamW(half.parameters())
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    steps(whole, [first], 2)
    steps(half, [second], 2)
    torch.testing.assert_close(half.state_dict(), whole.state_dict(), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["muon", "sgd"])
def test_by_class_path_from_yaml(brats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    optimizers = {
        "muon": "{class_path: raum_lightning.training.optimizers.MuonAdamW, init_args: {lr: 0.25}}",
        "sgd": "{class_path: torch.optim.SGD, init_args: {lr: 0.25, momentum: 0.9}}",
    }
    (tmp_path / "more.yaml").write_text(
        f"base: {DEBUG}\n"
        "module:\n"
        "  no_decay: true\n"
        f"  optimizer: {optimizers[name]}\n"
        "  lr_scheduler: {class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 1, gamma: 0.5}}\n"
    )
    words = ["-c", "more.yaml", "--data.root", str(brats), "--run.id", "x"]
    words += ["--trainer.logger", "raum_lightning.loggers.CSVLogger"]
    assert main(["fit", *words, "--trainer.max_steps", "2"]) == 0
    assert main(["fit", *words, "--trainer.max_steps", "3", "--ckpt_path", "auto"]) == 0
    head, *rows = (line.split(",") for line in Path("runs/more/x/metrics.csv").read_text().splitlines())
    rates = [row[head.index("lr")] for row in rows]
    assert [float(rate) for rate in rates if rate] == [0.25, 0.125, 0.0625]
    loaded = SegmentationModule.load_from_checkpoint("runs/more/x/checkpoints/last.ckpt")
    assert loaded.recipe.optimizer is None and loaded.recipe.no_decay
