"""One self-contained page of a run or a cross-validation: scores, curves, pictures, configuration, commands.

It needs neither a network nor a server, and the page's own policy forbids the browser to load anything.
"""

from raum_lightning.report.page import page
from raum_lightning.report.study import page as study_page

__all__ = ["page", "study_page"]
