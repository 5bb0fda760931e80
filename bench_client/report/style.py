"""The page's style sheet: light or dark as the reader prefers, one column on a telephone, nothing from elsewhere."""

from __future__ import annotations

from bench_client.report.theme import variables

BREAKPOINT_PX = 780
"""Narrower than that, figures are shown in their narrow shape: scaled down further, the wide one couldn't be read."""

_RULES = """
*, *::before, *::after { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 1104px; margin: 0 auto; padding: 2.5rem 2rem 4rem }
h1, h2, h3 { line-height: 1.25; margin: 0; overflow-wrap: anywhere }
h1 { font-size: 1.05rem; font-weight: 600; color: var(--muted) }
h2 { font-size: 1.3rem }
h3 { font-size: 1.02rem }
p { margin: 0 }
.lead { font-size: 1.6rem; line-height: 1.35; font-weight: 600; margin: .5rem 0 2rem; text-wrap: pretty;
  overflow-wrap: anywhere }
section { margin-top: 3rem }
section > h2 + p { color: var(--muted); max-width: 72ch; margin-top: .35rem }
.missing { color: var(--muted); border-left: 3px solid var(--axis); padding-left: .8rem; margin-top: 1rem }
.runs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1.25rem }
.run { background: var(--card); border-radius: 10px; padding: 1.25rem 1.4rem 1.35rem; min-width: 0 }
.run header { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem .8rem; font-size: 1.15rem }
.badge { border-radius: 99px; padding: .18rem .75rem; font-size: .85rem; font-weight: 700; letter-spacing: .04em;
  color: var(--paper); background: var(--muted) }
.badge.proved { background: var(--green) }
.badge.refuted { background: var(--red) }
.run > p { margin-top: .55rem; font-size: .93rem; color: var(--muted); overflow-wrap: anywhere }
.run dl { display: grid; grid-template-columns: repeat(4, auto); justify-content: space-between; gap: 1.05rem .8rem;
  margin: 1.2rem 0 0 }
.run dl div { display: flex; flex-direction: column; min-width: 0 }
.run dl .double { grid-column: span 2 }
.run dt { font-size: .85rem; color: var(--muted) }
.run dd { margin: 0; font-size: 1.4rem; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums }
.run dd small { display: block; font-size: .8rem; font-weight: 400; color: var(--muted) }
.remarks { margin: 1.1rem 0 0; padding: .8rem 0 0 1.1rem; border-top: 1px solid var(--grid); font-size: .93rem }
figure { margin: 1rem 0 0 }
figure + figure { margin-top: 1.75rem }
figcaption { font-weight: 650; margin-bottom: .2rem; overflow-wrap: anywhere }
figure svg { display: block; width: 100%; height: auto; stroke-linejoin: round; stroke-linecap: butt }
figure text { font-family: inherit }
figure .narrow { display: none; max-width: 30rem; margin: 0 auto }
.scroll { overflow-x: auto; margin-top: 1rem }
table { border-collapse: collapse; width: 100%; font-size: .95rem; font-variant-numeric: tabular-nums }
th, td { text-align: right; vertical-align: top; padding: .34rem 0 .34rem 1rem; border-top: 1px solid var(--grid);
  font-weight: 400; white-space: nowrap }
th { white-space: normal; overflow-wrap: break-word }
thead th:not(:first-child) { max-width: 9rem }
th:first-child { text-align: left; padding-left: 0; min-width: 6.5rem }
thead th { border-top: 0; color: var(--muted) }
tbody th[scope=rowgroup] { font-weight: 650; padding-top: 1.3rem; border-top: 0 }
tr.part th:first-child { padding-left: 1.1rem; color: var(--muted) }
table.setup td { text-align: left; width: 72%; min-width: 8.5rem; white-space: normal; overflow-wrap: anywhere }
table.setup.several td { width: auto }
table.setup th:first-child { color: var(--muted) }
table.setup thead th { text-align: left }
table.limits th[scope=row] { min-width: 14rem }
table.limits tr > :nth-child(n + 5) { text-align: left; white-space: normal; min-width: 6rem }
.more { color: var(--muted); font-size: .93rem; margin-top: .5rem }
section > h3 { margin-top: 1.75rem }
details { margin-top: 1.4rem }
summary { cursor: pointer; font-weight: 650 }
pre { background: var(--card); border-radius: 8px; padding: .9rem 1.1rem; margin: .8rem 0 0; font-size: .88rem;
  line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere;
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace }
pre span { display: inline-block; max-width: 100% }
"""
_TELEPHONE = """
  main { padding: 1.5rem 1rem 3rem }
  .lead { font-size: 1.28rem }
  .run { padding: 1.1rem 1rem }
  .run dl { grid-template-columns: repeat(2, 1fr); justify-content: normal }
  figure .wide { display: none }
  figure .narrow { display: block }
  table { font-size: .88rem }
  th, td { padding-left: .6rem }
  table.setup td { width: 62%; min-width: 7rem }
  th:first-child { min-width: 5.5rem }
  table.limits th[scope=row] { min-width: 8.5rem }
"""


def style_sheet() -> str:
    """Return the contents of the page's ``style``."""
    return (
        f":root {{ color-scheme: light dark; {variables(dark=False)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {variables(dark=True)} }} }}\n"
        f"@media print {{ :root {{ {variables(dark=False)} }} }}"
        f"{_RULES}@media (max-width: {BREAKPOINT_PX}px) {{{_TELEPHONE}}}\n"
    )
