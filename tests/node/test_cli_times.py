"""Times and lengths of time as options take them, and as commands show them."""

from __future__ import annotations

import click
import pytest

from limiter_node.commands.times import Length, Time, length_text


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("1971-01-01T00:00:00Z", 31_536_000_000),
        ("2027-06-30T00:00:00Z", 1_814_313_600_000),
        ("2027-06-30T02:00:00+02:00", 1_814_313_600_000),
        ("2027-06-30 00:00:00.250Z", 1_814_313_600_250),
    ],
)
def test_times(text: str, time_ms: int) -> None:
    assert Time().convert(text, None, None) == time_ms


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "never", "2027-06-30", "2027-06-30T00:00:00", "1970-06-30T00:00:00Z", "2027-06-31T00:00Z"]
)
def test_a_time_needs_its_offset(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a time with an offset: write it as 2027-06-30T00:00:00Z"):
        Time().convert(text, None, None)


def test_never_is_a_time_where_it_is_allowed() -> None:
    assert Time(or_never=True).convert("never", None, None) == 0
    with pytest.raises(click.BadParameter, match=r", or never$"):
        Time(or_never=True).convert("soon", None, None)


@pytest.mark.parametrize(
    ("text", "length_ms"), [("0s", 0), ("90s", 90_000), ("5m", 300_000), ("24h", 86_400_000), ("30d", 2_592_000_000)]
)
def test_lengths(text: str, length_ms: int) -> None:
    assert Length().convert(text, None, None) == length_ms


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "1.5h", "1w", "4000d", "24 h"])
def test_wrong_lengths(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a length of time: use a number and s, m, h or d, such as 24h"):
        Length().convert(text, None, None)


@pytest.mark.parametrize(
    ("length_ms", "text"),
    [
        (0, "0.0 s"),
        (41_230, "41.2 s"),
        (119_999, "120.0 s"),
        (120_000, "2 minutes"),
        (7_199_999, "119 minutes"),
        (7_200_000, "2 hours"),
        (172_800_000, "2 days"),
        (2_592_000_000, "30 days"),
    ],
)
def test_lengths_as_they_are_shown(length_ms: int, text: str) -> None:
    assert length_text(length_ms) == text
