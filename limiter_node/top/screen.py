"""The view as lines for a terminal of a given size: divides the lines among the sections.

Pure. In order of importance if there is little room: servers that are down, decisions, accounts and keys.
"""

from __future__ import annotations

from datetime import UTC, datetime

from rich.text import Text

from limiter_node.chart import Glyphs
from limiter_node.top.frame import Frame
from limiter_node.top.keys import account_lines, key_lines
from limiter_node.top.servers import node_lines, shard_lines
from limiter_node.top.summary import title_lines, totals_lines

_LEAST_KEYS = 5
"""Lines that the keys get in any case, header and note included."""
_LEAST_ACCOUNTS = 4
"""Lines that accounts and teams get in any case, if there are any, header included."""
_LEAST_SERVERS = 7
"""Lines that nodes and shards get together before the totals are cut."""


def screen_lines(frame: Frame, width: int, height: int | None, glyphs: Glyphs, hint: str = "") -> list[Text]:
    """Return the lines of one frame: `height` at most (None: as many as it takes), none longer than `width`."""
    clock = datetime.fromtimestamp(frame.time_s, UTC).strftime("%H:%M:%S UTC")
    top = [*title_lines(frame, width, hint, clock), *totals_lines(frame, width, glyphs)]
    everything = [
        top,
        node_lines(frame, width, len(frame.nodes or ()) + 1, glyphs),
        shard_lines(frame, width, len(frame.shards or ()) + 2, glyphs),
        account_lines(frame, width, len(frame.tightest) + 1, glyphs),
        key_lines(frame, width, len(frame.hottest) + 2, glyphs),
    ]
    sections = [section for section in everything if section]
    if height is None or sum(map(len, sections)) + len(sections) - 1 <= height:
        lines = _spaced(sections)
    elif sum(map(len, sections)) <= height:
        lines = [line for section in sections for line in section]
    else:
        lines = _squeezed(frame, top, width, height, glyphs)
    for line in lines:
        line.truncate(width, overflow="crop")
    return lines


def _squeezed(frame: Frame, top: list[Text], width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """Return the frame cut to `height` lines.

    Accounts and keys give way first, down to `_LEAST_ACCOUNTS` and `_LEAST_KEYS`; then the totals, down to their first
    lines; then nodes and shards share the rest.
    """
    with_store = frame.shards is not None
    all_accounts = len(frame.tightest) + 1 if frame.tightest else 0
    all_keys = len(frame.hottest) + 2 if with_store else 0
    least = min(_LEAST_ACCOUNTS, all_accounts) + (_LEAST_KEYS if with_store else 0)
    top = top[: max(height - least - _LEAST_SERVERS, 2)]
    nodes, shards = len(frame.nodes or ()) + 1, len(frame.shards or ()) + 1
    room = height - len(top)
    lower = min(max(room - nodes - shards, least), all_accounts + all_keys)
    accounts = min(all_accounts, max(lower // 2, lower - all_keys))
    room -= lower
    if nodes + shards > room:
        nodes = min(nodes, max(room // 2, room - shards)) if with_store else room
        shards = room - nodes
    lines = [*top, *node_lines(frame, width, nodes, glyphs), *shard_lines(frame, width, shards, glyphs)]
    lines += account_lines(frame, width, accounts, glyphs)
    return [*lines, *key_lines(frame, width, height - len(lines), glyphs)][:height]


def _spaced(sections: list[list[Text]]) -> list[Text]:
    lines: list[Text] = []
    for section in sections:
        lines += [Text(), *section] if lines else section
    return lines
