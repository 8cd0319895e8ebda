"""Links of a page: to the pictures of a case further down, and to its mask."""

import hashlib
import os
from html import escape
from pathlib import Path
from urllib.parse import quote


def anchor(case: str) -> str:
    """Return the name of the place in a page where a case is shown."""
    return f"case-{hashlib.sha256(case.encode()).hexdigest()[:12]}"


def linked(case: str, pictures: str, mask: Path, beside: Path) -> str:
    """Return the id of a case, a link to its place in `pictures` where it is shown, and a link to its mask.

    That starts in the folder `beside`, in which the page lies.
    """
    name = escape(case)
    if f'id="{anchor(case)}"' in pictures:
        name = f'<a href="#{anchor(case)}">{name}</a>'
    if not mask.exists():
        return name
    way = quote(os.path.relpath(mask, beside).replace(os.sep, "/"))
    return f'{name} <a href="./{escape(way)}" title="mask">&#8595;</a>'
