"""`raum report`: one page of a run or a cross-validation, to open offline."""

import argparse
from pathlib import Path

from raum_lightning.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add = parser.add_argument
    add("run", metavar="DIR", type=Path, help="folder of a run, runs/<experiment>/<id>, or of a cross-validation")
    add("--out", type=Path, help="page to write (default: report.html in that folder)")


def run(args: argparse.Namespace) -> int:
    """Write the page, say where, and return 0."""
    from raum_lightning.atomic import write_text
    from raum_lightning.progress import progress_bar
    from raum_lightning.report import page, study_page
    from raum_lightning.runs.folder import RunFolder
    from raum_lightning.runs.outputs import check_output
    from raum_lightning.runs.study_folder import StudyFolder

    study = StudyFolder(args.run)
    of_study = study.study.is_file()
    out = args.out or (study.report if of_study else RunFolder(args.run).report)
    if out.suffix not in (".html", ".htm"):
        raise ConfigError(f"{out}: the name must end in .html; it is a page")
    check_output(out, "raum report")
    with progress_bar("drawing cases") as progress:
        content = (study_page if of_study else page)(args.run, beside=out.parent, progress=progress)
    write_text(out, content)
    print(f"{out}: {len(content) / 1e6:.2g} MB")
    return 0
