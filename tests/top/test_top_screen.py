"""What a frame looks like: at 80 columns as it stands here, and whole at any size; and as lines."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console, Group

from limiter_node.chart import ASCII, BLOCKS, Glyphs
from limiter_node.limits import Amounts
from limiter_node.store.admin.hottest import Walk
from limiter_node.store.admin.limit_heat import HashPlace, LimitHeat
from limiter_node.store.admin.plain_heat import KeyHeat
from limiter_node.store.admin.watch import ShardReading
from limiter_node.top.cells import key_name, milliseconds, percent, rate, shortened, size
from limiter_node.top.frame import Frame, NodeRow, ShardRow, Totals
from limiter_node.top.lines import frame_lines
from limiter_node.top.rates import Quantile
from limiter_node.top.screen import screen_lines

KID = "0123456789abcdef" * 2


def key(name: str, *used: int) -> KeyHeat:
    return KeyHeat(KID, name, Amounts(60, 100_000, 50_000), Amounts(*used), True)


def limit(name: str, text: str, used: int, amount: int, kid: str = "") -> LimitHeat:
    return LimitHeat(HashPlace("@acme", kid), name, text, used, amount, True)


FRAME = Frame(
    time_s=1_790_000_000,
    nodes=(
        NodeRow("10.0.0.1:8080", "", 3_214, 3_071, Quantile(0.00041), Quantile(0.0021), 3.1, 41, 2, 0.58, 96e6, 0),
        NodeRow("10.0.0.2:8080", "connection refused"),
    ),
    totals=Totals(
        3_214,
        {"admitted": 2_300.4, "rejected": 761, "never_fits": 0.5, "unknown_key": 9},
        {"requests": 700, "input_tokens": 61.5, "output_tokens": 0, "tokens": 0},
        {"admitted": 0, "rejected": 0, "refused": 0},
        {"input": 1_640_000, "reserved": 12_760, "output": 4_020},
        0,
        Quantile(0.00041),
        Quantile(0.2048, True),
    ),
    shards=(
        ShardRow(ShardReading("10.0.0.7:7000", 0, "", 1, 9_412, 14_600_000, 4_113, 0), 0.14, Quantile(0.0008)),
        ShardRow(ShardReading("10.0.0.8:7000", 0, "no answer within 1 s"), cut_off_by=("10.0.0.1:8080",)),
    ),
    store_name="redis+cluster://10.0.0.7:7000",
    shards_cut_off=1,
    live_nodes=2,
    hottest=(key("alice", 60, 65_565, 1), key("", 15, 0, 37_500), key("batch jobs of the other team", 1, 40_000, 0)),
    walk=Walk(1_200, 0.4, False),
    history=(0, 1_000, 2_000, 3_071),
)


WITH_ACCOUNTS = replace(
    FRAME,
    tightest=(
        limit("acme/research", "requests/1d", 49_000, 50_000),
        limit("acme", "tokens/1m for o3*, gpt-5*", 1_200_000, 2_000_000),
        limit("acme/research/vision", "output_tokens/1m", 1, 9_000),
    ),
    hottest=(*FRAME.hottest[:2], limit("acme/alice", "input_tokens/1d", 99_000, 1_000_000, KID)),
    walk=Walk(1_200, 0.4, False, 3),
)


def shown(frame: Frame, width: int, height: int | None, glyphs: Glyphs = BLOCKS) -> list[str]:
    """The lines as a terminal without colours shows them."""
    output = io.StringIO()
    console = Console(file=output, width=width, height=height or 100, color_system=None, highlight=False)
    console.print(Group(*screen_lines(frame, width, height, glyphs, "q quits")))
    return [line.rstrip() for line in output.getvalue().splitlines()]


def test_80_columns() -> None:
    assert shown(FRAME, 80, 24) == SCREEN.strip("\n").splitlines()


def test_80_columns_with_accounts() -> None:
    lines = shown(WITH_ACCOUNTS, 80, None)
    at = lines.index("ACCOUNTS AND TEAMS         tightest limit       used")
    assert lines[at:] == ACCOUNTS.strip("\n").splitlines()
    assert len(shown(WITH_ACCOUNTS, 80, 24)) == 24
    only = replace(WITH_ACCOUNTS, hottest=WITH_ACCOUNTS.hottest[2:], walk=Walk(1, 1, True, 1))
    assert shown(only, 80, None)[at + 5 :] == ONLY_ACCOUNTS.strip("\n").splitlines()


def test_with_little_room_accounts_and_keys_share_it() -> None:
    many = replace(WITH_ACCOUNTS, tightest=WITH_ACCOUNTS.tightest * 30, hottest=WITH_ACCOUNTS.hottest * 30)
    for height in (24, 40):
        lines = shown(many, 80, height)
        assert len(lines) == height
        assert sum(line.startswith("acme/research") for line in lines) >= 2
        assert sum(line.startswith(("alice", "key 0", "acme/alice")) for line in lines) >= 2
    few = shown(replace(many, tightest=many.tightest[:1]), 80, 30)
    assert sum(line.startswith(("alice", "key 0", "acme/alice")) for line in few) > 10


def test_outcomes_that_are_rare_are_shown_where_there_are_any() -> None:
    assert FRAME.totals is not None
    totals = replace(FRAME.totals, outcomes={**FRAME.totals.outcomes, "revoked_key": 3, "disabled_key": 0})
    lines = shown(replace(FRAME, totals=totals), 80, 24)
    assert any(line.endswith("unknown key 9   revoked key 3") for line in lines) or "revoked key 3" in lines
    assert not any("disabled" in line for line in lines)


def test_little_room_and_no_blocks() -> None:
    assert shown(FRAME, 60, 14, ASCII) == NARROW.strip("\n").splitlines()


SIZES = [(80, 24), (140, 40), (100, 12), (60, 20), (40, 10), (200, 5), (20, 4)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("glyphs", [BLOCKS, ASCII], ids=["blocks", "ascii"])
def test_no_size_is_exceeded(width: int, height: int, glyphs: Glyphs) -> None:
    assert FRAME.nodes is not None
    assert FRAME.shards is not None
    many = replace(FRAME, nodes=FRAME.nodes * 20, shards=FRAME.shards * 20, hottest=FRAME.hottest * 30)
    away = replace(FRAME, store_problem="no answer within 1 s " * 9)
    with_many = replace(many, tightest=WITH_ACCOUNTS.tightest * 9)
    for frame in (FRAME, WITH_ACCOUNTS, many, with_many, replace(FRAME, totals=None), away):
        lines = screen_lines(frame, width, height, glyphs)
        assert len(lines) <= height
        assert max(cell_len(line.plain) for line in lines) <= width
        if glyphs is ASCII:
            assert all(line.plain.isascii() for line in lines)


def test_where_not_all_fits_what_is_wrong_is_shown_and_the_rest_added_up() -> None:
    up = NodeRow("10.0.0.1:8080", "", 100)
    frame = replace(FRAME, nodes=(*[up] * 19, NodeRow("10.0.0.99:8080", "connection refused")))
    lines = shown(frame, 80, 24)
    assert len(lines) <= 24
    (down,) = [line for line in lines if line.startswith("10.0.0.99:8080")]
    assert "down: connection refused" in down
    (more,) = [line for line in lines if " more, " in line]
    nodes = [line for line in lines if line.startswith("10.0.0.1:8080")]
    left_out = 19 - len(nodes)
    assert more == f"{left_out} more, {left_out} of them up: {left_out * 100:,} requests/s"
    assert sum(line.startswith(("alice", "key 0", "batch")) for line in lines) == 3
    assert len(shown(frame, 80, None)) > 24


def test_without_a_store_or_nodes_their_parts_are_not_there() -> None:
    only_nodes = "\n".join(shown(replace(FRAME, shards=None, hottest=()), 80, 24))
    assert "NODES" in only_nodes
    assert "SHARDS" not in only_nodes
    assert "KEYS" not in only_nodes
    only_store = "\n".join(shown(replace(FRAME, nodes=None, totals=None), 80, 24))
    assert "NODES" not in only_store
    assert "decisions/s" not in only_store
    assert "cut off by\n" not in only_store
    assert "alice" in only_store


def test_what_was_decided_without_the_store_is_told() -> None:
    assert FRAME.totals is not None
    degraded = replace(FRAME.totals, degraded={"admitted": 5, "rejected": 1_200, "refused": 0}, shed=7)
    lines = shown(replace(FRAME, totals=degraded), 80, 24)
    assert "without the store   admitted 5   rejected 1,200   refused 0   shed 7" in lines
    assert not any("without the store" in line for line in shown(FRAME, 80, 24))


def test_a_cluster_that_nobody_can_tell_of_is_down() -> None:
    lines = shown(replace(FRAME, shards=(), store_problem="connection refused", hottest=()), 80, 24)
    assert any(line.startswith("store") and line.endswith("down: connection refused") for line in lines)
    assert "shards 0/0 up" in lines[0]


def test_colours_say_nothing_that_words_do_not() -> None:
    coloured = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard", no_color=True)
    coloured.print(Group(*screen_lines(FRAME, 80, 24, BLOCKS)))
    assert "\x1b[3" not in coloured.file.getvalue()  # type: ignore[attr-defined]


def test_lines_can_be_grepped() -> None:
    assert frame_lines(FRAME, BLOCKS) == LINES.strip("\n").splitlines()
    assert frame_lines(WITH_ACCOUNTS, BLOCKS)[4:] == [
        "account name=acme/research heat=98% limit=requests/1d used=49000/50000",
        'account name=acme heat=60% limit="tokens/1m for o3*, gpt-5*" used=1200000/2000000',
        "account name=acme/research/vision heat=0% limit=output_tokens/1m used=1/9000",
        *LINES.strip("\n").splitlines()[4:6],
        "key name=acme/alice heat=9% limit=input_tokens/1d used=99000/1000000",
    ]
    alone = replace(FRAME, nodes=None, totals=None, shards=(), store_problem="no answer within 1 s", hottest=())
    assert frame_lines(alone, ASCII) == [
        "top time=2026-09-21T14:13:20Z shards=0/0 seen_keys=1200 seen_accounts=0 walked=40%",
        'down store=redis+cluster://10.0.0.7:7000 reason="no answer within 1 s"',
    ]


def test_a_name_cannot_move_the_cursor_or_break_a_line() -> None:
    evil = key('\x1b[2J\n"\u202e', 60, 0, 0)
    assert key_name(evil, BLOCKS) == '?[2J?"?'
    assert frame_lines(replace(FRAME, hottest=(evil,)), BLOCKS)[-1].startswith('key name="?[2J?\\"?" heat=100% ')
    markup = replace(FRAME, hottest=(key("[bold]x[/bold]", 1, 0, 0), key("日本語" * 9, 1, 0, 0)))
    lines = shown(markup, 80, 24)
    assert any("[bold]x[/bold" in line for line in lines)
    assert all(cell_len(line) <= 80 for line in lines)


def test_cells() -> None:
    assert [rate(each, 6) for each in (None, 0, 0.25, 3.0, 9.96, 12_345, 1_234_567)] == [
        "-", "0", "0.2", "3", "10", "12,345", "1.23M"
    ]  # fmt: skip
    assert [milliseconds(Quantile(each)) for each in (0.0000456, 0.00123, 0.0123, 0.123)] == [
        "0.05",
        "1.2",
        "12",
        "123",
    ]
    assert [percent(each) for each in (None, 0, 0.999, 1, 1.204)] == ["-", "0%", "99%", "100%", "120%"]
    assert [size(each) for each in (None, 512, 2_048, 96e6, 5e9)] == ["-", "512B", "2.0K", "92M", "4.7G"]
    assert shortened("limiter-0.limiter.svc:8080", 16, BLOCKS) == "limiter…svc:8080"


SCREEN = """
limiter-node top   nodes 1/2 up   shards 1/2 up   1 cut off         14:13:20 UTC
decisions/s     3,071   p50 ms 0.41  p99 ms >205   ▃▅█
admitted 2,300 (74%)   rejected 761 (24%)   never fits 0.5   unknown key 9
rejected by   requests 700   input tokens 62   output tokens 0   tokens 0
tokens/s   input 1,640,000   output reserved 12,760   output produced 4,020

NODES                req/s  dec/s p50ms p99ms batch in fl  wait  CPU  mem shed/s
10.0.0.1:8080        3,214  3,071  0.41   2.1   3.1    41     2  58%  92M      0
10.0.0.2:8080       down: connection refused

SHARDS                    ops/s  CPU  mem   keys repl p99ms cut off by
10.0.0.7:7000             9,412  14%  14M  4,113    1  0.80 -
10.0.0.8:7000           down: no answer within 1 s; cut off by 10.0.0.1:8080

HOTTEST KEYS   requests              input tokens          output tokens
alice          █████████       60/60 █████▉░░░  65.6k/100k ▏░░░░░░░░     1/50.0k
key 01234567…  ██▎░░░░░░       15/60 ░░░░░░░░░      0/100k ██████▊░░ 37.5k/50.0k
batch …er team ▏░░░░░░░░        1/60 ███▋░░░░░  40.0k/100k ░░░░░░░░░     0/50.0k
seen 1,200 keys in use, 40% of the store looked through
"""

NARROW = """
limiter-node top   nodes 1/2 up   shards 1/2 up   1 cut off
decisions/s     3,071   p50 ms 0.41  p99 ms >205   .:#
NODES             req/s  dec/s p50ms p99ms  wait  CPU shed/s
10.0.0.1:8080     3,214  3,071  0.41   2.1     2  58%      0
10.0.0.2:8080    down: connection refused
SHARDS                 ops/s  CPU p99ms cut off by
10.0.0.7:7000          9,412  14%  0.80 -
10.0.0.8:7000        down: no answer within 1 s; cut off by
HOTTEST KEYS    requests       input tokens   output tokens
alice           ########  100% #####...   65% #.......    0%
key 01234567~   ##......   25% ........    0% ######..   75%
batch j~er team #.......    1% ###.....   40% ........    0%
seen 1,200 keys in use, 40% of the store looked through
"""

LINES = """
top time=2026-09-21T14:13:20Z nodes=1/2 shards=1/2 cut_off=1 requests/s=3214 decisions/s=3070.9 \
admitted/s=2300.4 rejected/s=761 never_fits/s=0.5 unknown_key/s=9 \
by_requests/s=700 by_input_tokens/s=61.5 by_output_tokens/s=0 by_tokens/s=0 degraded/s=0 shed/s=0 \
p50_ms=0.41 p99_ms=>205 in_flight=41 waiting=2 seen_keys=1200 seen_accounts=0 walked=40%
down node=10.0.0.2:8080 reason="connection refused"
down shard=10.0.0.8:7000 reason="no answer within 1 s"
cut_off shard=10.0.0.8:7000 by=10.0.0.1:8080
key name=alice heat=100% requests=60/60 input_tokens=65565/100000 output_tokens=1/50000
key name="key 01234567…" heat=75% requests=15/60 input_tokens=0/100000 output_tokens=37500/50000
key name="batch jobs of the other team" heat=40% requests=1/60 input_tokens=40000/100000 output_tokens=0/50000
"""

ACCOUNTS = """
ACCOUNTS AND TEAMS         tightest limit       used
acme/research              requests/1d          ███████████████▋   49,000/50,000
acme                       tokens/1m…3*, gpt-5* █████████▋░░░░░░     1.20M/2.00M
acme/research/vision       output_tokens/1m     ▏░░░░░░░░░░░░░░░         1/9,000

HOTTEST KEYS   requests              input tokens          output tokens
alice          █████████       60/60 █████▉░░░  65.6k/100k ▏░░░░░░░░     1/50.0k
key 01234567…  ██▎░░░░░░       15/60 ░░░░░░░░░      0/100k ██████▊░░ 37.5k/50.0k
acme/alice     input_tokens/1d       ██▋░░░░░░░░░░░░░░░░░░░░░░░░    99,000/1.00M
seen 1,200 keys and 3 accounts in use, 40% of the store looked through
"""

ONLY_ACCOUNTS = """
HOTTEST KEYS               tightest limit       used
acme/alice                 input_tokens/1d      █▋░░░░░░░░░░░░░░    99,000/1.00M
seen 1 key and 1 account in use, all there are
"""
