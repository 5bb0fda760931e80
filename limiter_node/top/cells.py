"""Numbers as text for tables: short, of a bounded width, "-" for what isn't known."""

from __future__ import annotations

from limiter_node.chart import Glyphs, compact
from limiter_node.store.admin.limit_heat import LimitHeat
from limiter_node.store.admin.plain_heat import KeyHeat
from limiter_node.top.rates import Quantile

UNKNOWN = "-"


def rate(per_second: float | None, width: int) -> str:
    """Return a rate as text; small ones have a decimal."""
    if per_second is None:
        return UNKNOWN
    if 0 < per_second < 9.95:
        return f"{per_second:.1f}".removesuffix(".0")
    return compact(per_second, width)


def count(number: float | None, width: int) -> str:
    """Return a whole number as text."""
    return UNKNOWN if number is None else compact(number, width)


def milliseconds(seconds: Quantile | None) -> str:
    """Return a time in ms as text, without the unit, with at least two digits."""
    if seconds is None:
        return UNKNOWN
    ms = seconds.value * 1000
    text = f"{ms:.2f}" if ms < 0.995 else f"{ms:.1f}" if ms < 9.95 else f"{ms:.0f}"
    return f">{text}" if seconds.is_above else text


def average(number: float | None) -> str:
    """Return a mean as text, with a decimal."""
    return UNKNOWN if number is None else f"{number:.1f}"


def percent(share: float | None) -> str:
    """Return a share as text, 1 being 100 %. It is rounded down, so that 100 % means all."""
    return UNKNOWN if share is None else f"{int(share * 100 + 1e-9)}%"


def size(bytes_: float | None) -> str:
    """Return a size as text, in binary units."""
    if bytes_ is None:
        return UNKNOWN
    for unit in "BKMG":
        if bytes_ < 1000 or unit == "G":
            break
        bytes_ /= 1024
    return f"{bytes_:.1f}{unit}" if bytes_ < 9.95 and unit != "B" else f"{bytes_:.0f}{unit}"


def key_name(key: KeyHeat | LimitHeat, glyphs: Glyphs) -> str:
    """Return the name of a key, never the key. Anybody can choose a name, so unprintable characters become "?"."""
    name = printable(key.name)
    return name or f"key {key.kid[:8]}{glyphs.ellipsis}"


def printable(text: str) -> str:
    """Return the text with "?" for characters that could move the cursor."""
    return "".join(each if each.isprintable() else "?" for each in text)


def shortened(text: str, width: int, glyphs: Glyphs) -> str:
    """Return the text, without its middle if it is too long: of an address, the host's start and the port matter."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    tail = width - 1 - head
    return f"{text[:head]}{glyphs.ellipsis}{text[len(text) - tail :]}"
