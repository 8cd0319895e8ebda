"""The commands and blocks of code that a page of documentation shows."""

import re
from pathlib import Path


def blocks(page: Path, language: str) -> list[str]:
    """Return what stands between ```` ```LANGUAGE ```` and ```` ``` ````, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Return the lines of the page's blocks of shell, in order and without comments; continued lines as one."""
    text = "\n".join(blocks(page, "(?:sh|bash|console)")).replace("\\\n", " ")
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line]
