"""Bars, columns and what `keys show` draws of a window, in blocks and in ASCII."""

from __future__ import annotations

import pytest

from limiter_node.chart import ASCII, BLOCKS, bar, columns, compact, glyphs_for
from limiter_node.commands.usage_chart import NO_USE, frees, per_second, usage_chart
from limiter_node.decisions import PathUsage, Usage, WindowBucket
from limiter_node.limits import Amounts
from limiter_node.plans import plan_of
from limiter_node.policy import AUDIT, AccountPolicy, KeyPolicy, Limit, PolicyWindow, Subject
from limiter_node.store.admin.path_usage import tightest_minute

NOW_MS = 1_790_000_000_050
NOW = NOW_MS // 100


@pytest.mark.parametrize(
    ("fraction", "blocks", "plain"),
    [
        (-1, "░░░░", "...."),
        (0, "░░░░", "...."),
        (0.001, "▏░░░", "#..."),
        (0.5, "██░░", "##.."),
        (0.53, "██▏░", "##.."),
        (0.999, "███▉", "###."),
        (1, "████", "####"),
        (7, "████", "####"),
    ],
)
def test_a_bar_is_empty_only_where_nothing_is_used_and_full_only_where_all_is(
    fraction: float, blocks: str, plain: str
) -> None:
    assert "".join(bar(fraction, 4, BLOCKS)) == blocks
    assert "".join(bar(fraction, 4, ASCII)) == plain


def test_columns() -> None:
    assert columns([0, 1, 8, 16], 1, BLOCKS) == [" ▁▄█"]
    assert columns([0, 1, 8, 16], 2, BLOCKS) == ["   █", " ▁██"]
    assert columns([0, 1, 8, 16], 2, ASCII) == ["   #", " .##"]
    assert columns([0, 0], 2, BLOCKS) == ["  ", "  "]
    assert columns([], 1, BLOCKS) == [""]
    assert columns([5], 1, BLOCKS) == ["█"]


def test_the_output_decides_between_blocks_and_ascii() -> None:
    assert [glyphs_for(each) for each in ("utf-8", "cp437", "ascii", "latin-1", None, "nonsense")] == [
        BLOCKS, ASCII, ASCII, ASCII, ASCII, ASCII
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "width", "text"),
    [
        (0, 5, "0"), (1_234, 5, "1,234"), (12_345, 5, "12.3k"), (12_345, 6, "12,345"), (999_999, 5, "1.00M"),
        (99_960, 5, "100k"), (4_000_000_000, 5, "4.00G"), (2e15, 5, "2000T"),
    ],
)  # fmt: skip
def test_numbers_fit(number: float, width: int, text: str) -> None:
    assert compact(number, width) == text


def usage(*buckets: tuple[int, int, int, int], limits: tuple[int, int, int] = (100, 1_000, 500)) -> Usage:
    """A window of buckets, each so many old, with requests, input and output tokens."""
    cells = tuple(WindowBucket(NOW - age, *amounts) for age, *amounts in buckets)
    used = Amounts(*(sum(cell[1 + dimension] for cell in cells) for dimension in range(3)))
    return Usage(Amounts(*limits), used, Amounts(0, 0, 0), 100, NOW_MS, "alice", cells)


def test_a_second_holds_ten_buckets_and_the_oldest_what_is_older() -> None:
    seconds = per_second(
        usage((600, 1, 0, 0), (599, 2, 0, 0), (590, 4, 0, 0), (589, 8, 0, 0), (9, 16, 0, 0), (0, 32, 0, 0)), 0
    )
    assert (seconds[0], seconds[1], seconds[59], sum(seconds)) == (7, 8, 48, 63)


def test_what_frees_when() -> None:
    window = usage((600, 3, 0, 0), (500, 4, 0, 0), (0, 9, 0, 0))
    # The oldest bucket that counts leaves with the one that is under way, 50 ms of which are over.
    assert [frees(window.buckets, NOW_MS, 0, missing) for missing in (1, 3, 4, 8, 17)] == [
        (3, 50), (3, 50), (7, 10_050), (16, 60_050), None
    ]  # fmt: skip


def chart_lines(*buckets: tuple[int, int, int, int], limits: tuple[int, int, int], reserve: int = 100) -> list[str]:
    window = usage(*buckets, limits=limits)._replace(output_reserve=reserve)
    return [line.strip() for line in usage_chart(window, BLOCKS)]


def test_a_full_key_is_told_when_it_has_room_again() -> None:
    lines = chart_lines((480, 37, 400, 250), (100, 13, 600, 160), limits=(50, 1_000, 500))
    assert "full: frees 37 requests in 12.1 s" in lines
    assert "full: frees 400 input tokens in 12.1 s" in lines
    assert "full without a cap (100): frees 250 output tokens in 12.1 s" in lines


def test_a_key_with_room_says_nothing_of_it_and_a_limit_too_small_that_it_never_has() -> None:
    assert not any("full" in line for line in chart_lines((1, 49, 999, 400), limits=(50, 1_000, 500)))
    lines = chart_lines((1, 1, 1, 1), limits=(0, 1_000, 99))
    assert "never room: the limit is 0" in lines
    assert "never room without a cap (100): the limit is 99" in lines
    assert not any("full" in line for line in chart_lines((1, 1, 1, 99), limits=(50, 1_000, 98), reserve=0))
    assert "full: frees 1 request in 60.0 s" in chart_lines((1, 1, 1, 1), limits=(1, 1_000, 500))


def test_a_full_key_with_large_numbers_stays_within_eighty_columns() -> None:
    limits = (4_000_000_000,) * 3
    lines = usage_chart(usage((480, *limits), limits=limits)._replace(output_reserve=1_000_000), BLOCKS)
    assert [line.strip() for line in lines if "full" in line] == [
        "full: frees 4.00G requests in 12.1 s",
        "full: frees 4.00G input tokens in 12.1 s",
        "full without a cap (1.00M): frees 4.00G output tokens in 12.1 s",
    ]
    assert max(map(len, lines)) <= 80


def test_the_chart_as_it_stands() -> None:
    window = usage((595, 2, 20, 0), (305, 1, 7, 0), (12, 4, 300, 0), (3, 3, 40, 0))
    assert usage_chart(window, BLOCKS) == ["", *CHART.strip("\n").split("\n")]
    plain = usage_chart(window, ASCII)
    assert all(line.isascii() and len(line) <= 80 for line in plain)
    assert len(plain) == len(usage_chart(window, BLOCKS))
    assert max(map(len, usage_chart(window._replace(limits=Amounts(*[4_000_000_000] * 3)), BLOCKS))) <= 80


def test_no_use_is_one_line() -> None:
    assert usage_chart(usage(), BLOCKS) == [NO_USE]
    assert usage_chart(usage((5, 0, 0, 0)), ASCII) == [NO_USE]


CHART = """
requests       ███░░░░░░░░░░░░░░░░░░░░░░░░░░░   10 %  10 of 100
      4 ┤                                                          █▂
        │▄                                                         ██
        │█                            ▆                            ██
      0 └ -60 s ─────────────────────── -30 s ─────────────────── now

input tokens   ███████████░░░░░░░░░░░░░░░░░░░   36 %  367 of 1,000
    300 ┤                                                          █
        │                                                          █
        │▂                            ▁                            █▃
      0 └ -60 s ─────────────────────── -30 s ─────────────────── now

output tokens  ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░    0 %  0 of 500
"""


PLAN = plan_of(
    AccountPolicy(
        "acme",
        (
            Subject("", (PolicyWindow(60_000, limits=(Limit(0, 60), Limit(1, 9, AUDIT))),)),
            Subject("r", (PolicyWindow(60_000, ("o3*", "gpt-5"), (Limit(3, 1_000), Limit(2, 400))),)),
        ),
    ),
    KeyPolicy("0" * 32, "alice", "r", (PolicyWindow(1_000, limits=(Limit(0, 1),)), PolicyWindow(60_000))),
    (),
    0,
    is_whole=True,
)


def path_usage(*used: tuple[int, int, int]) -> Usage:
    """Of acme's minute, the team's, the key's second, and its minute without limits."""
    zeros = Amounts(0, 0, 0)
    path = PathUsage(PLAN, tuple(Amounts(*each) for each in used), (zeros,) * 4)
    at = tightest_minute(path)
    buckets = (WindowBucket(NOW_MS // 100 - 300, *used[at]),) if any(used[at]) else ()
    return Usage(zeros, zeros, zeros, 100, NOW_MS, "acme/alice", buckets, path=path, charted=at)


def test_the_tightest_minute_of_a_path_is_drawn() -> None:
    none = (0, 0, 0)
    assert tightest_minute(path_usage((30, 9, 0), (1, 300, 100), (1, 0, 0), (9, 9, 9)).path) == 0
    assert tightest_minute(path_usage((30, 9, 0), (1, 500, 100), (1, 0, 0), (9, 9, 9)).path) == 1
    assert tightest_minute(path_usage(none, none, (1, 0, 0), none).path) == 1, "of equal ones the nearest to the key"
    lines = usage_chart(path_usage((30, 9, 0), (1, 500, 450), none, none), ASCII)
    assert lines[0] == "the last 60 s of acme/r for o3*, gpt-5, the tightest minute:"
    assert [line.split("  ")[0] for line in lines if " of " in line][1:] == ["output tokens", "tokens"]
    assert "output tokens  ##############################  112 %  450 of 400" in lines
    assert "               full without a cap (100): frees 450 output tokens in 30.1 s" in lines
    assert "tokens         ############################..   95 %  950 of 1,000" in lines
    assert "               full without a cap (101): frees 950 tokens in 30.1 s" in lines
    assert max(map(len, lines)) <= 80


def test_a_path_without_use_or_without_a_minute_says_so() -> None:
    none = (0, 0, 0)
    assert usage_chart(path_usage(none, none, (1, 0, 0), none), ASCII)[1:] == [NO_USE]
    used = path_usage((1, 0, 0), none, none, none)
    assert usage_chart(used._replace(charted=-1), ASCII) == []
    flat = plan_of(AccountPolicy(key=KeyPolicy("0" * 32)), KeyPolicy("0" * 32), (), 0)
    assert tightest_minute(PathUsage(flat, (), ())) == -1
