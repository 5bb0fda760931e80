"""The mock: texts of exact length under both vocabularies, lengths as specified, caps honoured."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
from typing import Any

import pytest

from limiter_node.errors import ConfigError
from limiter_node.lengths import MAX_LENGTH, parse_length
from limiter_node.tokens.vocabulary import count
from limiter_node.upstream.interface import Upstream
from limiter_node.upstream.mock.model import MockModel
from limiter_node.upstream.mock.stream import paced
from limiter_node.upstream.mock.text import PERIOD_TOKENS, MockText, pieces
from limiter_node.upstream.requests import ChatRequest
from limiter_node.upstream.source import Completion, Delta

MODELS = ["gpt-4o", "gpt-4"]


def request(n: int = 1) -> ChatRequest:
    messages = [{"role": "user", "content": "hi"}]
    return ChatRequest("gpt-4o", n, None, False, False, 8, {"model": "gpt-4o", "messages": messages})


def mock(length: str = "fixed:20", **options: Any) -> MockModel:
    return MockModel(**{"latency_ms": 0, "seed": 7, "length": length, **options})


@pytest.fixture(scope="module")
def text() -> MockText:
    return MockText()


@pytest.mark.parametrize("model", MODELS)
def test_every_prefix_up_to_2000_tokens_is_exact(text: MockText, model: str) -> None:
    wrong = [tokens for tokens in range(2_001) if count(text.prefix(tokens), model) != tokens]
    assert wrong == []


@pytest.mark.parametrize("model", MODELS)
def test_every_piece_of_the_period_is_one_token(text: MockText, model: str) -> None:
    ends = [len(text.prefix(tokens)) for tokens in range(PERIOD_TOKENS + 1)]
    whole = text.prefix(PERIOD_TOKENS)
    pieces = {whole[start:end] for start, end in itertools.pairwise(ends)}
    assert {piece for piece in pieces if count(piece, model) != 1} == set()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "tokens",
    [
        *(each * PERIOD_TOKENS + by for each in (1, 2, 7, 8, 9, 16) for by in (-1, 0, 1)),
        *random.Random(3).sample(range(2_001, 20_001), 20),
        20_000,
        100_003,
    ],
)
def test_longer_prefixes_are_exact(text: MockText, tokens: int, model: str) -> None:
    assert count(text.prefix(tokens), model) == tokens


def test_prefixes_extend_each_other_and_read_like_prose(text: MockText) -> None:
    long = text.prefix(9 * PERIOD_TOKENS)
    assert all(long.startswith(text.prefix(tokens)) for tokens in (0, 1, 50, PERIOD_TOKENS, 8 * PERIOD_TOKENS))
    assert long[0].isupper()
    assert long[-1] == "."
    assert long.isascii()
    assert not set(long) & set('"\\\n')


async def test_an_answer_shorter_than_the_cap_stops() -> None:
    completion = await mock("fixed:20").chat(request(), 100, "req_1")
    assert completion.choice_tokens == (20,)
    assert completion.completion_tokens == 20
    assert completion.finish_reasons == ("stop",)
    assert count(completion.contents[0], "gpt-4o") == 20


@pytest.mark.parametrize(
    ("drawn", "cap", "produced", "reason"),
    [(20, 19, 19, "length"), (20, 20, 20, "stop"), (20, 21, 20, "stop"), (20, 1, 1, "length"), (0, 5, 0, "stop")],
)
async def test_the_cap(drawn: int, cap: int, produced: int, reason: str) -> None:
    completion = await mock(f"fixed:{drawn}").chat(request(), cap, "req_1")
    assert (completion.completion_tokens, completion.finish_reasons) == (produced, (reason,))


async def test_each_of_n_choices_is_drawn_and_capped() -> None:
    completion = await mock("uniform:1:100").chat(request(50), 60, "req_1")
    assert len(completion.contents) == len(completion.finish_reasons) == len(completion.choice_tokens) == 50
    assert len(set(completion.choice_tokens)) > 10
    assert sum(completion.choice_tokens) == completion.completion_tokens
    for content, tokens, reason in zip(
        completion.contents, completion.choice_tokens, completion.finish_reasons, strict=True
    ):
        assert count(content, "gpt-4o") == count(content, "gpt-4") == tokens <= 60
        assert tokens == 60 or reason == "stop"
    assert "length" in completion.finish_reasons


async def test_the_same_seed_gives_the_same_lengths() -> None:
    async def lengths(seed: int) -> list[int]:
        upstream = mock("uniform:1:1000", seed=seed)
        return [(await upstream.chat(request(), 10_000, "req_1")).completion_tokens for _ in range(20)]

    assert await lengths(1) == await lengths(1) != await lengths(2)


def test_uniform_lengths_are_inclusive_on_both_sides() -> None:
    draw = parse_length("uniform:3:5", random.Random(1))
    assert {draw() for _ in range(200)} == {3, 4, 5}


def test_lognormal_lengths_have_the_median() -> None:
    draw = parse_length("lognormal:200:0.6", random.Random(1))
    lengths = [draw() for _ in range(4_000)]
    assert 190 < statistics.median(lengths) < 210
    assert min(lengths) >= 1
    wild = parse_length("lognormal:200:10", random.Random(1))
    wild_lengths = [wild() for _ in range(500)]
    assert (min(wild_lengths), max(wild_lengths)) == (1, MAX_LENGTH)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "fixed",
        "fixed:",
        "fixed:x",
        "fixed:-1",
        "fixed:1:2",
        "fixed:1.5",
        "fixed:1000001",
        "uniform:5:3",
        "uniform:5",
        "uniform:-1:3",
        "lognormal:200",
        "lognormal:0:1",
        "lognormal:200:-1",
        "lognormal:200:nan",
        "lognormal:200:11",
        "normal:3:4",
    ],
)
def test_other_length_specs_are_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match="use 'fixed:N'"):
        parse_length(spec, random.Random(1))


@pytest.mark.parametrize("latency_ms", [-1, float("nan"), float("inf")])
def test_other_times_and_rates_are_refused(latency_ms: float) -> None:
    with pytest.raises(ConfigError, match="latency"):
        mock(latency_ms=latency_ms)
    with pytest.raises(ConfigError, match="first token"):
        mock(ttft_ms=latency_ms)
    with pytest.raises(ConfigError, match="tokens per second"):
        mock(tokens_per_s=latency_ms)


def test_without_latency_the_event_loop_is_not_asked() -> None:
    with pytest.raises(StopIteration) as stopped:
        mock().chat(request(), 100, "req_1").send(None)
    assert isinstance(stopped.value.value, Completion)


async def test_the_latency_is_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    await mock(latency_ms=250).chat(request(), 100, "req_1")
    assert slept == [0.25]


@pytest.mark.parametrize("rate", [0, 1_000_000])
@pytest.mark.parametrize(("n", "cap"), [(1, 10_000), (5, 60), (100, 9)])
async def test_a_stream_says_what_chat_would_have_said(rate: float, n: int, cap: int) -> None:
    options = {"length": "uniform:0:100" if n > 1 else "fixed:3000", "tokens_per_s": rate}
    whole = await mock(**options).chat(request(n), cap, "req_1")
    batches = [batch async for batch in mock(**options).stream(request(n), cap, "req_1")]
    deltas = [delta for batch in batches for delta in batch]
    assert max(map(len, batches)) <= max(64, n)
    for choice in range(n):
        mine = [delta for delta in deltas if delta.choice == choice]
        assert "".join(delta.text for delta in mine) == whole.contents[choice]
        assert sum(delta.tokens for delta in mine) == whole.choice_tokens[choice]
        assert [delta.finish_reason for delta in mine] == [None] * (len(mine) - 1) + [whole.finish_reasons[choice]]
        assert all(count(delta.text, "gpt-4o") == delta.tokens for delta in mine)
        if rate:
            assert all(delta.tokens == 1 for delta in mine if delta.text)


async def test_choices_take_turns() -> None:
    batches = [batch async for batch in mock("fixed:3", tokens_per_s=1_000_000).stream(request(2), 10, "req_1")]
    assert [delta.choice for batch in batches for delta in batch] == [0, 1] * 3


async def test_a_stream_keeps_its_time_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up that comes late brings everything that is due by then."""
    now, late, slept = 100.0, iter((0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0)), []

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(round(seconds, 6))
        now += seconds + next(late)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    upstream = mock("fixed:10", ttft_ms=300, tokens_per_s=10)
    batches = [len(batch) async for batch in upstream.stream(request(), 100, "req_1")]
    assert batches == [1, 1, 6, 1, 1]
    assert slept == [0.3, 0.1, 0.1, 0.1, 0.1]


def test_pieces_join_to_any_text() -> None:
    for text in ("", "a", ' {"a": [1, -2.5]}\n\n', "x" * 100, "日本語 \r\n\t_é🙂"):
        for at_once in (1, 3, 16):
            assert "".join(pieces(text, at_once)) == text


async def test_tokens_are_right_for_a_text_that_is_not_the_prose() -> None:
    completion = Completion(('{"a":"b c"}',), ("stop",), (4,), 4, "fp")
    deltas: list[Delta] = [delta async for batch in paced(completion, 0, 1e9) for delta in batch]
    assert "".join(delta.text for delta in deltas) == '{"a":"b c"}'
    assert sum(delta.tokens for delta in deltas) == 4


async def test_models_and_close() -> None:
    upstream: Upstream = mock(models=["a", "b"])
    assert await upstream.models() == ("a", "b")
    await upstream.close()
    await upstream.close()
