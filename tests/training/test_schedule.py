import pytest

from raum_lightning.training.schedule import warmup_cosine


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
