"""docs/wandb.md names the keys of the logger, with their defaults, and the sections that runs have."""

import inspect
import re

import yaml

from raum_lightning.loggers import WandbLogger
from raum_lightning.loggers.wandb_logger import DICE, RENAMED
from tests.helpers import ROOT

PAGE = (ROOT / "docs" / "wandb.md").read_text()


def test_the_keys_of_the_logger_are_listed_with_their_defaults() -> None:
    block, _ = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)  # the other is of Lightning's loggers
    listed = yaml.safe_load(block)["trainer"]["logger"][1]["init_args"]
    # where runs lie and what they are called is raum's to say
    parameters = inspect.signature(WandbLogger).parameters
    assert listed == {name: each.default for name, each in parameters.items() if name not in ("save_dir", "id")}


def test_the_sections_stand_in_the_order_of_the_alphabet_and_dice_first() -> None:
    sections = re.findall(r"^\| `(\w+)` \| ", PAGE.partition("## Panels")[2], re.MULTILINE)
    assert sections == sorted(sections) and sections[0] == DICE.rstrip("/")
    assert {name.partition("/")[0] for name in RENAMED.values()} <= set(sections)
