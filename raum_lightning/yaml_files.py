"""YAML files as plain trees that remember in which line each key stands, with the traps of YAML 1.1 closed.

`1e-4` is a number, `010` and `12:30` are strings, a key given twice is an error, and a file is bounded in bytes and in
what its aliases expand to.
"""

import enum
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from raum_lightning.errors import ConfigError

Key = tuple[str | int, ...]
TAG = "tag:yaml.org,2002:"
MAX_BYTES = 2**20
MAX_NODES = 100_000
MAX_DEPTH = 50
REPLACED = ("int", "float", "timestamp")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the numbers of YAML 1.2 and without its dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.removeprefix(TAG) not in REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_INT = r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)"
_MANTISSA = r"(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9][0-9_]*(?=[eE]))"
_FLOAT = rf"[-+]?{_MANTISSA}(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
for _name, _pattern in (("int", _INT), ("float", _FLOAT)):
    _tag, _regexp = f"{TAG}{_name}", re.compile(rf"^(?:{_pattern})$")
    _Loader.add_implicit_resolver(_tag, _regexp, list("-+0123456789."))


# jsonargparse writes configurations with PyYAML's own, which has nothing for the defaults of some classes, such as
# Lightning's `Timer(interval)`
yaml.SafeDumper.add_multi_representer(enum.Enum, lambda dumper, member: dumper.represent_data(member.value))


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what `_Loader` or PyYAML's own would else read as a number: jsonargparse reads with the latter."""


_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *resolvers]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def to_yaml(tree: Any) -> str:
    """Return a tree as text that `read_yaml` reads as this tree: the words `1e3` and `012` are put in quotes."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def read_yaml(file: Path) -> tuple[Any, dict[Key, str]]:
    """Return a file's content and, for each key and item in it, the place where it stands: `FILE, line N`.

    Raises:
        ConfigError: The file is too large, is not valid YAML, has a key twice, or its aliases expand without bound.
        OSError: The file cannot be read.
    """
    with file.open("rb") as opened:
        text = opened.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{file}: has more than {MAX_BYTES} bytes; a configuration is expected")
    loader = None
    try:
        loader = _Loader(text.decode())
        return _Tree(file, loader).read()
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: is not valid YAML ({_place(error)})") from None
    finally:
        if loader is not None:
            loader.dispose()


def parse_value(text: str) -> Any:
    """Return a value of the command line as YAML, or as the string that it is where that is not valid."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError):
        return text


class _Tree:
    """Nodes of YAML to dictionaries, lists and scalars."""

    def __init__(self, file: Path, loader: _Loader) -> None:
        self.file, self.loader = file, loader
        self.places: dict[Key, str] = {}
        self.flat: set[int] = set()
        self.count = 0

    def read(self) -> tuple[Any, dict[Key, str]]:
        node = self.loader.get_single_node()
        return (None if node is None else self._value(node, ())), self.places

    def _value(self, node: yaml.Node, path: Key) -> Any:
        self.count += 1
        if self.count > MAX_NODES or len(path) > MAX_DEPTH:
            raise ConfigError(f"{self.file}: expands to more than {MAX_NODES} values or {MAX_DEPTH} levels")
        if isinstance(node, yaml.MappingNode) and node.tag == f"{TAG}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{TAG}seq":
            for number, item in enumerate(node.value):
                self._note((*path, number), item)
            return [self._value(item, (*path, number)) for number, item in enumerate(node.value)]
        return self.loader.construct_object(node, deep=True)

    def _mapping(self, node: yaml.MappingNode, path: Key) -> dict[Any, Any]:
        own = self._own_keys(node) if id(node) not in self.flat else {}
        self.flat.add(id(node))
        tree = {}
        for key_node, value in node.value:
            key = self._key(key_node)
            self._note((*path, key), own.get(key, key_node))
            tree[key] = self._value(value, (*path, key))
        return tree

    def _own_keys(self, node: yaml.MappingNode) -> dict[Any, yaml.Node]:
        """Check that no key stands twice, and put what `<<` merges before the node's own keys."""
        own: dict[Any, yaml.Node] = {}
        for key_node, _ in node.value:
            if key_node.tag == f"{TAG}merge":
                continue
            key = self._key(key_node)
            if key in own:
                lines = f"{own[key].start_mark.line + 1} and {key_node.start_mark.line + 1}"
                raise ConfigError(f"{self.file}: has the key {key!r} twice, in lines {lines}; keep one of them")
            own[key] = key_node
        self.loader.flatten_mapping(node)
        return own

    def _key(self, node: yaml.Node) -> Any:
        key = self.loader.construct_object(node)
        if not isinstance(key, Hashable) or isinstance(key, tuple):
            raise ConfigError(f"{self.file}, line {node.start_mark.line + 1}: a key must be a word or a number")
        return key

    def _note(self, path: Key, node: yaml.Node) -> None:
        self.places[path] = f"{self.file}, line {node.start_mark.line + 1}"


def _place(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).partition("\n")[0]
