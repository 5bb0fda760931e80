"""The grammar of ``--limit``: what becomes which field, and how it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from limiter_node.commands.limit_argument import limit_change
from limiter_node.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("input_tokens=1000000/1d", "input_tokens/1d", 1_000_000),
        ("input_tokens = 1_000_000 / 1d", "input_tokens/1d", 1_000_000),
        ("requests=5/60s", "rpm", 5),
        ("tokens=7/1m", "tpm", 7),
        ("requests=0/24h", "requests/1d", 0),
        ("output_tokens=5000/1m for o3*", "output_tokens/1m for o3*", 5_000),
        ("output_tokens=5000/1m for o3*,GPT-5*", "output_tokens/1m for gpt-5*,o3*", 5_000),
        (
            'output_tokens=5000/1m for o3*, gpt-5* as "big models"',
            "output_tokens/1m for gpt-5*,o3*",
            {"amount": 5_000, "name": "big models"},
        ),
        ("requests=10/1s as 'a b'", "requests/1s", {"amount": 10, "name": "a b"}),
        ("requests=10/1s audit", "requests/1s", {"amount": 10, "mode": "audit"}),
        ("requests=10/1s enforce", "requests/1s", 10),
        (
            "requests=10/1s for m as bursts audit",
            "requests/1s for m",
            {"amount": 10, "mode": "audit", "name": "bursts"},
        ),
        ('requests=10/1s as "for audit" audit', "requests/1s", {"amount": 10, "mode": "audit", "name": "for audit"}),
        ("requests=1_000/1s", "requests/1s", 1_000),
        ("requests=1,234,567/1s", "requests/1s", 1_234_567),
        ("input_tokens=none/1d", "input_tokens/1d", None),
        ("requests=none/1m for o3*", "requests/1m for o3*", None),
        ("requests=none/60s", "rpm", None),
    ],
)
def test_a_limit_becomes_a_field(text: str, field: str, value: Any) -> None:
    assert limit_change(text) == (field, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a limit is written as UNIT=AMOUNT/PER, such as 'input_tokens=1000000/1d', or "),
        ("requests", "a limit is written as UNIT=AMOUNT/PER"),
        ("requests=5", "a limit is written as UNIT=AMOUNT/PER"),
        ("requests=5/1d or so", "a limit is written as UNIT=AMOUNT/PER"),
        ('requests=5/1d as "a" b', "a limit is written as UNIT=AMOUNT/PER"),
        ("requests=many/1d", "requests must be an integer from 0 to 999,999,999,999,999"),
        ("requests=1,5/1d", "requests must be an integer from 0 to 999,999,999,999,999"),
        ("requests=1__0/1d", "requests must be an integer from 0 to 999,999,999,999,999"),
        ("requests=-1/1d", "requests must be an integer from 0 to 999,999,999,999,999"),
        ("requests=1000000000000000/1d", "requests must be an integer from 0 to 999,999,999,999,999"),
        ("requests=5/32d", 'per must be a length from "1s" to "31d", in s, m, h or d'),
        ("requests=5/month", 'per = "month" is not supported by this version: take it out'),
        ("cost=5/1d", "cost is not supported by this version: take it out"),
        ("apples=5/1d", "unknown field 'apples': there are requests, input_tokens"),
        ("requests=5/1d for ****,*****", "models: a pattern may have at most 4 *"),
    ],
)
def test_wrong_limits_are_refused_as_in_the_keys_file(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        limit_change(text)
    assert str(raised.value).startswith(message)
