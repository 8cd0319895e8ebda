"""Experiments that build on each other: the key `base` of a YAML file."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from raum_lightning.errors import RunError


def with_bases(args: Sequence[str]) -> list[str]:
    """Puts before each `-c FILE` the file that it names as its `base`, and that one's before it.

    Files given later win, key by key, so that an experiment states only what it does otherwise than its base.
    """
    words: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word in ("-c", "--config") and rest:
            files = _bases(Path(rest.pop(0)))
        elif word.startswith("--config="):
            files = _bases(Path(word.removeprefix("--config=")))
        elif word.partition("=")[0] == "--base":
            raise RunError("--base: `base` is a key of YAML files; several files are given as -c FIRST -c SECOND")
        else:
            words.append(word)
            continue
        words += [part for file in files for part in ("--config", str(file))]
    return words


def _bases(file: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    if file in above:
        raise RunError(f"{file}: is its own base, by way of {', '.join(map(str, above))}")
    try:
        content = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise RunError(f"{file}: no such file, named {f'as base by {above[-1]}' if above else 'with -c'}") from None
    except OSError as error:
        raise RunError(f"{file}: cannot be read ({error.strerror}); a YAML file is expected") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{file}: is not valid YAML ({error})") from None
    base = content.get("base") if isinstance(content, dict) else None
    if not isinstance(base, str | None):
        raise RunError(f"{file}: base={base!r} must be the name of one file; a chain of bases gives more")
    return [*(_bases(file.parent / base, (*above, file)) if base else []), file]
