"""One self-contained page of a run: curves, test cases by Dice, pictures of three of them, configuration, commands.

It needs neither a network nor a script, and the page's own policy forbids the browser to load anything.
"""

from raum_lightning.report.page import page

__all__ = ["page"]
