"""Ids of cases, which become names of files and folders and are printed: what they may be, and how they are shown."""

import os
import unicodedata
from pathlib import Path

from raum_lightning.errors import CaseError

# of UTF-8; with an ending and a fingerprint it stays below the 255 that file systems allow
MAX_BYTES = 150
# Unicode categories: control, format (such as right-to-left marks), surrogate, line and paragraph separator
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def check_id(case_id: str) -> str:
    """Return the id of a case; raise `CaseError` unless it is one clean component of a path.

    It holds no separator and no character that is not shown, does not begin with a dot, and takes at most 150 bytes.
    """
    shown = printable(case_id)
    if len(case_id.encode(errors="surrogatepass")) > MAX_BYTES:
        raise CaseError(f"case {shown[:40]}...: its id takes more than {MAX_BYTES} bytes; give its files shorter names")
    if not case_id or case_id.startswith(".") or case_id != case_id.strip() or {*case_id} & {"/", "\\"}:
        raise CaseError(f"case {shown!r}: its id becomes the name of a file; give it one without / and dot in front")
    if shown != case_id:
        raise CaseError(f"case {shown}: its id holds characters that are not shown; rename its files")
    return case_id


def check_inside(path: Path, root: Path) -> Path:
    """Return `path`; raise `CaseError` where its name leads out of `root`, by being absolute or by `..`.

    Links are followed, as they are for files that are found by their names: whoever owns the folder has put them there.
    """
    if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root)):
        raise CaseError(
            f"{printable(str(path))}: lies outside {printable(str(root))}; put the file below it and name it from there"
        )
    return path


def printable(text: str, keep: str = "") -> str:
    """Return `text` with what a terminal would act on, or not show, as escapes such as \\x1b; `keep` stays as it is."""
    return "".join(
        character.encode("unicode_escape", "surrogatepass").decode()
        if unicodedata.category(character) in HIDDEN and character not in keep
        else character
        for character in text
    )
