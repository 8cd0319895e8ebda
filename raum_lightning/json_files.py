"""JSON of others as values: any text that is not JSON raises one kind of error, and values are compared with a type."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from raum_lightning.errors import UserError


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; raise `ValueError` for any other.

    Also for one that is nested too deeply, or has a key twice, of which Python would take the last.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it has the key {key!r} twice")
        found[key] = value
    return found


def read_json(
    path: Path,
    kind: type[UserError],
    keys: Mapping[str, Any] | None = None,
    optional: Mapping[str, Any] | None = None,
) -> Any:
    """Return the value in a JSON file.

    Args:
        path: The file.
        kind: What is raised for a file that cannot be used.
        keys: Keys that an object must have, each with the type of its value, as for `is_like`.
        optional: Keys that it may have.
    """
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise kind(f"{path}: no such file") from None
    except ValueError as error:
        raise kind(f"{path}: is not valid JSON ({error})") from None
    if keys is None:
        return content
    if not isinstance(content, dict):
        raise kind(f"{path}: holds {_named(content)} where an object with {', '.join(keys)} is expected")
    hints = {**keys, **{key: hint for key, hint in (optional or {}).items() if key in content}}
    if wrong := [key for key, hint in hints.items() if key not in content or not is_like(content[key], hint)]:
        found = _named(content[wrong[0]]) if wrong[0] in content else "absent"
        raise kind(f"{path}: is damaged or of another program ({wrong[0]} is {found})")
    return content


def is_like(value: Any, hint: Any) -> bool:
    """Return whether a value of JSON, its lists as they are or as tuples, is of a type.

    That is a type of typing such as `tuple[int, ...]`; `{key: type}` for an object with these keys and maybe others; or
    `[type]` for a list of any length.
    """
    if isinstance(hint, dict):
        return isinstance(value, dict) and all(key in value and is_like(value[key], hint[key]) for key in hint)
    if isinstance(hint, list):
        return isinstance(value, (tuple, list)) and all(is_like(one, hint[0]) for one in value)
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return value is None or isinstance(value, (str, int, float, tuple, list, dict))
    if hint is None or hint is NoneType:
        return value is None
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        wanted = parts[:1] * len(value) if parts[1:] == (...,) else parts
        return len(value) == len(wanted) and all(map(is_like, value, wanted))
    if origin is Mapping:
        return isinstance(value, dict) and all(is_like(k, parts[0]) and is_like(value[k], parts[1]) for k in value)
    if parts:  # a union
        return any(is_like(value, part) for part in parts)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _named(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
