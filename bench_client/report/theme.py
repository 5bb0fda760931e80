"""The colours of page and figures, for light and dark backgrounds, and the dashes and hatching of lines and areas.

Colours are those of Okabe and Ito, which colour-blind readers can distinguish, darker on white and lighter on black.
Lines differ by their dashes and areas by their hatching, too. A figure is drawn in stand-ins (``#0a0bNN``), which
become variables of the page's style sheet, or the light colours where a figure stands alone.
"""

from __future__ import annotations

from typing import NamedTuple


class Colour(NamedTuple):
    """Hold the colours of one role, by its name in the style sheet (``--name``)."""

    light: str
    dark: str


COLOURS = {
    "paper": Colour("#ffffff", "#14181f"),
    "card": Colour("#f5f7fa", "#1c222b"),
    "ink": Colour("#1b2430", "#e6e9ee"),
    "muted": Colour("#566172", "#a3adbb"),
    "grid": Colour("#e3e7ec", "#2b323c"),
    "axis": Colour("#9aa4b1", "#5f6a78"),
    "blue": Colour("#0067a8", "#5ab3ee"),
    "vermilion": Colour("#c24a00", "#ff8f52"),
    "green": Colour("#00805f", "#35c79d"),
    "purple": Colour("#a44a80", "#e39bc7"),
    "orange": Colour("#c98a00", "#f2b632"),
    "sky": Colour("#3b93c9", "#8fcdf3"),
    "red": Colour("#b3132b", "#ff6b7d"),
    "grey": Colour("#7a8594", "#8a95a3"),
}
_STAND_INS = {name: f"#0a0b{place:02x}" for place, name in enumerate(COLOURS, start=0x10)}


class Mark(NamedTuple):
    """Say how a series looks."""

    colour: str
    """A stand-in."""
    dashes: str | tuple[int, tuple[float, ...]] = "-"
    hatch: str = ""


def stand_in(name: str) -> str:
    """Return the colour that a figure is drawn in for the colour of that name."""
    return _STAND_INS[name]


RUNS = (
    Mark(stand_in("blue"), "-"),
    Mark(stand_in("vermilion"), (0, (5, 1.6)), "//"),
    Mark(stand_in("green"), (0, (7, 1.6, 1.4, 1.6)), "--"),
    Mark(stand_in("purple"), (0, (1.6, 1.4)), "\\\\"),
    Mark(stand_in("orange"), (0, (9, 2.5)), "xx"),
    Mark(stand_in("grey"), (0, (4, 1.2, 1.2, 1.2, 1.2, 1.2)), "||"),
)
"""The colours of runs, in the order of the page's columns."""

OUTCOMES = {
    "admitted": Mark(stand_in("blue")),
    "requests": Mark(stand_in("orange")),
    "input_tokens": Mark(stand_in("purple"), hatch="//"),
    "output_tokens": Mark(stand_in("green"), hatch="\\\\"),
    "tokens": Mark(stand_in("vermilion"), hatch=".."),
    "never_fits": Mark(stand_in("grey"), hatch="xx"),
    "rejected": Mark(stand_in("sky"), hatch="||"),
    "other": Mark(stand_in("muted"), hatch="--"),
    "errors": Mark(stand_in("red"), hatch="xx"),
}
"""What became of a request; rejections by their reason, those of another limiter as ``rejected``."""

KINDS = {
    "node": Mark(stand_in("blue")),
    "store": Mark(stand_in("vermilion"), hatch="//"),
    "client": Mark(stand_in("grey"), hatch="\\\\"),
}
"""The marks of kinds of processes."""


def variables(*, dark: bool) -> str:
    """Return the style sheet's variables."""
    return " ".join(f"--{name}: {colour.dark if dark else colour.light};" for name, colour in COLOURS.items())


def replacements(*, alone: bool) -> dict[str, str]:
    """Return what the stand-ins become: variables, or the light colours if a figure stands alone."""
    return {stand_in: COLOURS[name].light if alone else f"var(--{name})" for name, stand_in in _STAND_INS.items()}
