"""The help of the trainer's verbs: every key with its default and one sentence, ours before Lightning's."""

import re
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

from jsonargparse import ArgumentParser

HEADINGS = {
    "": "what to run on",
    "run": "run: the folder of the run",
    "module": "module: network, loss, optimiser, scores",
    "data": "data: cases, patches, augmentation",
    "trainer": "trainer: Lightning's Trainer",
}
# what jsonargparse and Lightning say of these is of no use here
SAID = {
    "config": "YAML file with keys of these groups; of several the later one wins, and what is typed wins over all",
    "seed_everything": "weights, patches and augmentation follow from it",
}
LEFT_OUT = {"help", "print_config", "weights_only", *(group for group in HEADINGS if group)}
INDENT = 4
LONGEST_DEFAULT = 40


def trainer_help(parser: ArgumentParser, verb: str, description: str) -> str:
    """Return the help of a verb, wrapped for the terminal."""
    width = min(max(shutil.get_terminal_size().columns, 80), 120)
    sections: dict[str, list[str]] = {group: [] for group in HEADINGS}
    for key, default, said in _options(parser):
        group = key.partition(".")[0] if "." in key else ""
        heading = "  -c FILE, --config FILE" if key == "config" else f"  --{key}{default}"
        body = textwrap.wrap(said, width - INDENT - 2)
        sections.setdefault(group, []).extend([heading, *(" " * (INDENT + 2) + line for line in body)])
    lines = [f"usage: lightning {verb} -c FILE [-c FILE ...] [--KEY VALUE ...]", "", description, ""]
    for group, section in sections.items():
        lines += [f"{HEADINGS.get(group, group)}", *section, ""] if section else []
    lines += [
        "--print_config       print what files and options give together",
        "--keys               print the keys alone, one a line",
        *(["--plan               measure what this training needs instead: `raum plan`"] if verb == "fit" else []),
        "--module.network.help CLASS, --module.loss.help CLASS, --trainer.logger.help CLASS ...",
        "                     print the arguments of a class",
    ]
    return "\n".join(lines)


def keys(parser: ArgumentParser) -> list[str]:
    """Return the options of a verb as they are typed."""
    return [f"--{key}" for key, _, _ in _options(parser)]


def _options(parser: ArgumentParser) -> Iterator[tuple[str, str, str]]:
    """Yield key, default in brackets, and first sentence of each option of a parser."""
    # argparse has no other list of them
    for action in parser._actions:
        key, said = str(action.dest), str(action.help or "")
        if action.option_strings and key not in LEFT_OUT and not key.endswith(".help"):
            yield key, _default(action), SAID.get(key) or _first_sentence(said)


def _default(action: Any) -> str:
    if action.required:
        return "  (required)"
    shown = str(action.default)
    unset = action.default is None or "UNSET" in shown or len(shown) > LONGEST_DEFAULT
    return "" if unset else f"  ({shown})"


def _first_sentence(text: str) -> str:
    plain = re.sub(r":\w+:`~?([^`]*)`", r"\1", " ".join(text.split())).replace("``", "`").replace("%%", "%")
    return re.split(r"(?<=[a-z0-9`)\]])\. (?=[A-Z`])| Default: | Defaults to ", plain)[0]
