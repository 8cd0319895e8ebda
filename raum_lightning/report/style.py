"""The frame of the page and its style sheet, light and dark."""

import math

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {scripts}">
<meta name="generator" content="{command}">
<title>{title}</title>
<style>{style}</style>
</head>
<body><header><h1>{title}</h1>{head}</header>{body}</body>
</html>
"""
STYLE = """
:root { color-scheme: light dark; --ink: #1b1e23; --soft: #636b76; --line: #dfe2e6; --paper: #fff; --raised: #f5f6f8;
  --bar: #cfe9e5; --warn: #9a5b00; --c0: #1f6fd1; --c1: #d9480f; --c2: #b8860b; --c3: #1b1e23;
  --c4: #7b3fb5; --c5: #0b7f6f; --c6: #8a4b2a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa2ad; --line: #343a42; --paper: #15181c;
  --raised: #1e2228; --bar: #1f4a47; --warn: #f0b357; --c0: #6cb0ff; --c1: #ff8f5e; --c2: #e6c35c; --c3: #e6e8eb;
  --c4: #c79bf0; --c5: #5fd0bd; --c6: #d9a585; } }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; color: var(--ink);
  background: var(--paper); max-width: 76rem; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -.02em; margin: 0; }
h2 { font-size: 1.25rem; margin: 3rem 0 1rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
header p, small, figcaption { color: var(--soft); }
header p { margin: .4rem 0 1.5rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; }
.tiles div { flex: 1 1 10rem; background: var(--raised); border-radius: .5rem; padding: .8rem 1rem; }
.tiles strong { display: block; font-size: 1.9rem; line-height: 1.25; font-weight: 600; }
small { display: block; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(21rem, 1fr)); gap: 1rem 1.5rem; }
.chart { margin: 0; }
.square { max-width: 26rem; }
figcaption b { color: var(--ink); display: block; }
.key { margin-right: .8rem; white-space: nowrap; }
.key::before { content: ""; display: inline-block; width: 1.6rem; margin-right: .35rem; vertical-align: middle;
  border-top: var(--width, 2px) var(--style, solid) var(--c); }
svg { width: 100%; height: auto; display: block; }
svg text { font-size: 11px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.y { text-anchor: end; dominant-baseline: middle; } .x { text-anchor: middle; } .unit { text-anchor: end; }
.grid { stroke: var(--line); fill: none; }
.line { stroke: var(--c); fill: none; stroke-width: var(--width, 2px); stroke-dasharray: var(--dashes, none);
  stroke-linejoin: round; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); --style: dashed; --dashes: 7 4; }
.c2 { --c: var(--c2); --style: dotted; --dashes: 2 3; } .c3 { --c: var(--c3); --width: 3px; }
.c4 { --c: var(--c4); --style: dashed; --dashes: 12 4; } .c5 { --c: var(--c5); --style: dotted; --dashes: 4 3; }
.c6 { --c: var(--c6); --width: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 500; } tr > :first-child { text-align: left; }
thead th { color: var(--soft); } thead tr:first-child th { text-align: center; border-bottom: 0; }
tfoot { font-weight: 600; }
.sortable thead tr th { text-align: right; vertical-align: bottom; white-space: normal; }
.sortable tr > th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
.sortable button { font: inherit; color: inherit; background: none; border: 0; padding: 0; text-align: inherit;
  cursor: pointer; }
.sortable button:hover { color: var(--ink); text-decoration: underline; }
th[aria-sort] button::after { content: " \\25b2"; } th[aria-sort="descending"] button::after { content: " \\25bc"; }
.bar { background: linear-gradient(to right, var(--bar) calc(var(--v) * 100%), transparent 0); }
img { width: 100%; height: auto; border-radius: .5rem; display: block; }
pre { background: var(--raised); border-radius: .5rem; padding: .9rem 1rem; overflow-x: auto; font-size: .8rem;
  line-height: 1.5; }
summary { cursor: pointer; }
.slices { max-height: 24rem; overflow-y: auto; scroll-snap-type: y mandatory; margin-top: .5rem; }
.slices figure { margin: 0; scroll-snap-align: start; }
.slices figcaption { font-size: .8rem; margin-bottom: .5rem; }
circle.line { fill: var(--c); fill-opacity: .35; stroke-dasharray: none; }
a { color: var(--c0); text-decoration: none; } a:hover { text-decoration: underline; }
.missing { color: var(--warn); margin-bottom: .3rem; }
"""


def bar(name: str, value: float) -> str:
    """Return the attributes of a cell behind whose score a bar is drawn: a Dice; of others none."""
    shown = name.startswith("dice_") and not math.isnan(value)
    return f' class="bar" style="--v:{max(0.0, min(1.0, value)):.3f}"' if shown else ""
