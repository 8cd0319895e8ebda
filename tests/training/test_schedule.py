from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import Timer

from raum_lightning.cli.config_inheritance import read_files
from raum_lightning.data.patches import PatchSampler
from raum_lightning.training.length import TotalSteps, only_timer, run_length
from raum_lightning.training.schedule import warmup_cosine
from tests.helpers import EXPERIMENTS


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1 / 5),  # (0 + 1) / (4 + 1)
        (3, 4 / 5),
        (4, 1.0),  # the cosine starts at its top
        (54, 0.55),  # half way: 0.1 + 0.9 * 0.5 * (1 + cos(pi / 2))
        (104, 0.1),  # the end
        (200, 0.1),
    ],
)
def test_closed_form(step: int, factor: float) -> None:
    assert warmup_cosine(step, warmup_steps=4, total_steps=104, final=0.1) == pytest.approx(factor)


def test_no_warmup_starts_at_full_rate() -> None:
    assert warmup_cosine(0, warmup_steps=0, total_steps=10) == 1.0


def test_the_pace_is_taken_from_the_end_of_the_first_step() -> None:
    """In which a network may be compiled: of 60 s, where a step takes 0.5 s."""
    timer, strategy = Timer({"minutes": 20}), SimpleNamespace(broadcast=lambda number: number)
    trainer: Any = SimpleNamespace(max_steps=-1, max_epochs=-1, callbacks=[timer], global_step=0, strategy=strategy)
    total = TotalSteps(trainer)
    lengths = []
    for trainer.global_step, elapsed in enumerate((0, 60, 60.5, 61, 1200.5)):
        timer.load_state_dict({"time_elapsed": {"train": elapsed}})
        lengths.append(total())
    assert lengths == [float("inf"), float("inf"), 2 + 1139.5 * 2, 3 + 1139 * 2, 4]


def test_a_run_that_time_ends_is_as_long_as_its_pace_makes_it() -> None:
    timer = Timer({"minutes": 20})
    endless: Any = SimpleNamespace(max_steps=-1, max_epochs=-1, callbacks=[Timer(), timer], global_step=0)
    assert only_timer(endless) is timer and run_length(endless) == float("inf")
    endless.global_step = 50
    timer.load_state_dict({"time_elapsed": {"train": 300}})  # as where a run is resumed
    assert run_length(endless) == 200
    timer.load_state_dict({"time_elapsed": {"train": 1201}})
    assert run_length(endless) == 50
    for end in ({"max_steps": 80}, {"max_epochs": 4}, {"callbacks": [Timer()]}):
        stepped: Any = SimpleNamespace(**vars(endless) | end, estimated_stepping_batches=80)
        assert only_timer(stepped) is None and run_length(stepped) == 80, "the time only cuts it short"


@pytest.mark.parametrize(("experiment", "patches"), [("unetr", 120_000), ("unetr_long", 500_160)])
def test_an_experiment_sees_as_many_patches_on_any_number_of_gpus(experiment: str, patches: int) -> None:
    tree = read_files([EXPERIMENTS / f"{experiment}.yaml"]).tree
    epoch, epochs = tree["data"]["patches_per_epoch"], tree["trainer"]["max_epochs"]
    assert "max_steps" not in tree["trainer"] and epoch * epochs == patches
    for ranks in (1, 2, 3, 4, 6, 8, 16, 32):
        shares = [PatchSampler(epoch, num_replicas=ranks, rank=rank) for rank in range(ranks)]
        assert sorted(index for share in shares for _, index in share) == list(range(epoch))
