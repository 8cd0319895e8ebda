"""`raum report`: one page of a run, to open offline."""

import argparse
from pathlib import Path

from raum_lightning.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="folder of the run: runs/<experiment>/<id>")
    parser.add_argument("--out", type=Path, help="page to write (default: report.html in the run's folder)")


def run(args: argparse.Namespace) -> int:
    """Write the page, say where, and return 0."""
    from raum_lightning.atomic import write_text
    from raum_lightning.progress import progress_bar
    from raum_lightning.report import page
    from raum_lightning.runs.folder import RunFolder
    from raum_lightning.runs.outputs import check_output

    out = args.out or RunFolder(args.run).report
    if out.suffix not in (".html", ".htm"):
        raise ConfigError(f"{out}: let the name end in .html; it is a page")
    check_output(out, "raum report")
    with progress_bar("drawing cases") as progress:
        content = page(args.run, progress=progress)
    write_text(out, content)
    print(f"{out}: {len(content) / 1e6:.1f} MB")
    return 0
