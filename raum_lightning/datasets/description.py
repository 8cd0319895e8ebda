"""A data set from plain values, strictly: what is misspelt or contradicts itself is said before any work."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from raum_lightning.datasets.dataset import DataSet
from raum_lightning.errors import ConfigError

SCORING = ("default", "brats2020", "brats2023", "brats2023-men", "brats2023-met", "brats2024", "brats2026")
KEYS = frozenset(
    [
        "name",
        "images",
        "mask",
        "labels",
        "regions",
        "index",
        "ids",
        "example",
        "patient",
        "colours",
        "background",
        "ignore",
        "scoring",
        "splits",
        "prediction",
        "source",
    ]
)
NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")


def parse(content: Mapping[str, Any], where: str) -> DataSet:
    """Return the data set that plain values describe; `where` they stand begins the message of an error.

    Raises:
        ConfigError: A key is unknown or missing, or a value is not what it should be.
    """
    read = _Reader(where)
    if unknown := sorted(set(map(str, content)) - KEYS):
        raise read.error(unknown[0], f"is no key of a data set; its keys are {', '.join(sorted(KEYS))}")
    index = read.text(content, "index")
    images, channels = read.images(content.get("images"), index)
    labels = read.labels(content.get("labels"), index)
    ignore = content.get("ignore")
    if ignore is not None and (not read.is_value(ignore) or ignore in labels or ignore == 0):
        raise read.error("ignore", f"is {ignore!r}; give the one value, not 0 and not of labels, that is left out")
    scoring = content.get("scoring", "default")
    if scoring not in SCORING:
        raise read.error("scoring", f"is {scoring!r}; it is one of {', '.join(SCORING)}")
    return DataSet(
        name=read.name("name", content.get("name")),
        images=images,
        mask=read.patterns("mask", content["mask"]) if content.get("mask") else (),
        labels=labels,
        regions=read.regions(content.get("regions"), labels),
        channels=channels,
        index=index,
        ids=tuple(read.regex("ids", one) for one in listed(content.get("ids"))),
        example=read.example(content.get("example")),
        patient=read.regex("patient", content["patient"], groups=1) if content.get("patient") else None,
        colours=read.colours(content.get("colours"), labels),
        background=read.background(content.get("background", 0)),
        ignore=ignore,
        scoring=scoring,
        splits=read.text(content, "splits"),
        prediction=read.prediction(content.get("prediction", "{case}")),
        source=" ".join((read.text(content, "source") or "").split()),
    )


def listed(value: Any) -> list[Any]:
    """Return a list as it is, nothing as an empty one, and anything else as the only item of one."""
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


class _Reader:
    """Checks of single keys; every error begins with the file."""

    def __init__(self, where: str) -> None:
        self.where = where

    def error(self, key: str, sentence: str) -> ConfigError:
        return ConfigError(f"{self.where}: {key} {sentence}")

    @staticmethod
    def is_value(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**16

    def name(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not NAME.fullmatch(value):
            raise self.error(
                key, f"holds {value!r}, which is not a valid name; give letters, digits, . _ + -, or quote it"
            )
        return value

    def text(self, content: Mapping[str, Any], key: str) -> str | None:
        value = content.get(key)
        if value is not None and not isinstance(value, str):
            raise self.error(key, f"is {value!r}; give text")
        return value

    def mapping(self, key: str, value: Any, example: str) -> Mapping[Any, Any]:
        if not isinstance(value, Mapping) or not value:
            raise self.error(key, f"is {value!r}; give something like {example}")
        return value

    def patterns(self, key: str, value: Any) -> tuple[str, ...]:
        found = tuple(listed(value))
        if not found or not all(isinstance(pattern, str) and "{case" in pattern for pattern in found):
            raise self.error(key, f'is {value!r}; give a pattern with {{case}} in it, such as "{{case}}/*_seg.nii.gz"')
        for pattern in found:
            if pattern.startswith("/") or ".." in pattern.split("/"):
                raise self.error(key, f"has the pattern {pattern!r}; patterns begin below the root")
            try:
                compiled(pattern)
            except re.error as error:
                raise self.error(key, f"has the pattern {pattern!r}, which cannot be understood ({error})") from None
        return found

    def images(self, value: Any, index: str | None) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
        if value is None and index:
            return {}, {}
        given = self.mapping("images", value, '{flair: "{case}/*_flair.nii.gz"}')
        if set(given) == {"file", "channels"}:
            if not isinstance(given["channels"], (list, tuple)):
                raise self.error(
                    "images.channels", f"is {given['channels']!r}; give a list of names in the file's order"
                )
            channels = [self.name("images.channels", name) for name in given["channels"]]
            if not channels or len(set(channels)) < len(channels):
                raise self.error("images.channels", f"is {channels}; name each channel of the file, and each once")
            patterns = self.patterns("images.file", given["file"])
            return dict.fromkeys(channels, patterns), {name: number for number, name in enumerate(channels)}
        return {self.name("images", name): self.patterns(f"images.{name}", one) for name, one in given.items()}, {}

    def labels(self, value: Any, index: str | None) -> dict[int, str]:
        if value is None and index:
            return {}
        given = self.mapping("labels", value, "{1: NCR, 2: ED, 4: ET}")
        labels: dict[int, str] = {}
        for key, name in given.items():
            number = int(key) if isinstance(key, str) and key.isdigit() else key  # as JSON has them
            if not self.is_value(number):
                raise self.error("labels", f"has {number!r}, which is no label value; give whole numbers from 0")
            if number in labels:
                raise self.error("labels", f"has {number} twice")
            if number == 0:
                if name != "background":
                    raise self.error("labels", f"calls 0 {name!r}; 0 is background")
                continue
            labels[number] = self.name("labels", name)
            if name == "background":
                raise self.error("labels", f"calls {number} background, which is 0")
        if len(labels) > 60:
            raise self.error("labels", f"has {len(labels)} classes; 60 is the most")
        return labels

    def regions(self, value: Any, labels: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
        order = {name: position for position, name in enumerate(dict.fromkeys(labels.values()), 1)}
        if value is None:
            if not order:  # they stand in a dataset.json
                return {}
            value = {name: [name] for name in order}
        regions: dict[str, tuple[int, ...]] = {}
        for name, members in self.mapping("regions", value, "{TC: [NCR, ET]}").items():
            given = listed(members)
            if not given:
                raise self.error(f"regions.{name}", f"is {members!r}; give a list of classes")
            if unknown := [member for member in given if not isinstance(member, str) or member not in order]:
                raise self.error(f"regions.{name}", f"names {unknown[0]}, no class of labels: {', '.join(order)}")
            if self.name("regions", name).lower() in (*map(str.lower, regions), "mean"):
                raise self.error("regions", f"has {name} twice (case does not count), or calls one mean; rename it")
            regions[name] = tuple(sorted(order[member] for member in set(given)))
        return regions

    def regex(self, key: str, value: Any, groups: int | None = None) -> str:
        if not isinstance(value, str):
            raise self.error(key, f"holds {value!r}; give a regular expression in quotes")
        try:
            found = re.compile(value).groups
        except re.error as error:
            raise self.error(key, f"holds {value!r}, no regular expression ({error})") from None
        if groups is not None and found != groups:
            raise self.error(key, f"is {value!r}, which has {found} groups; give it one, the patient: (...)")
        return value

    def prediction(self, value: Any) -> str:
        if not re.fullmatch(r"[^{}/\\]*\{case\}[^{}/\\]*", str(value)) or str(value).endswith((".nii", ".nii.gz")):
            raise self.error("prediction", f'is {value!r}; give a file name without ending, such as "{{case}}_dseg"')
        return str(value)

    def example(self, value: Any) -> str | None:
        if value is None:
            return None
        if not re.fullmatch(r"[^{}/]*\{n(:0\d+d)?\}[^{}/]*", str(value)):
            raise self.error("example", f"is {value!r}; give an id with one {{n}} or {{n:03d}} in it")
        return str(value)

    def colours(self, value: Any, labels: Mapping[int, str]) -> dict[str, str]:
        if value is None:
            return {}
        given = self.mapping("colours", value, '{ET: "#ffd54d"}')
        for name, colour in given.items():
            if name not in labels.values():
                raise self.error("colours", f"names {name}, no class of labels: {', '.join(labels.values())}")
            if not isinstance(colour, str) or not re.fullmatch("#[0-9a-fA-F]{6}", colour):
                raise self.error(f"colours.{name}", f'is {colour!r}; give six digits in quotes, such as "#ffd54d"')
        return dict(given)

    def background(self, value: Any) -> float | str:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if value == "none":
            return "none"
        if isinstance(value, str) and "{case" in value:
            return self.patterns("background", value)[0]
        raise self.error("background", f"is {value!r}; give a number, none, or the pattern of a brain mask")


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern as a regular expression for a path below the root with `/` between folders and no ending.

    Capitals do not count. The ending of the pattern, where it has one, is left to `ending`, which is in small letters.
    """
    ids = r"[^/]+"
    out, rest = "", pattern[: len(pattern) - len(ending(pattern) or "")]
    tokens = re.compile(r"\*\*/|\*|\?|\[[^\]]+\]|\{case(?::([^{}]*))?\}|[^*?\[{]+|.")
    for token in tokens.finditer(rest):
        text = token.group()
        if text.startswith("{case"):
            out += "(?P=case)" if "(?P<case>" in out else f"(?P<case>{token.group(1) or ids})"
        elif text == "**/":
            out += "(?:.*/)?"
        elif text in "*?":
            out += "[^/]*" if text == "*" else "[^/]"
        elif text.startswith("[") and len(text) > 1:
            out += "[" + text[1:-1].replace("!", "^", 1) + "]" if text[1] == "!" else text
        else:
            out += re.escape(text)
    return re.compile(out, re.IGNORECASE)


def ending(pattern: str) -> str | None:
    """Return .nii or .nii.gz where the pattern asks for one of them."""
    found = re.search(r"\.nii(\.gz)?$", pattern, re.IGNORECASE)
    return found.group().lower() if found else None
