"""Answers of services of every kind, and broken in every way: read without an exception, with no text uncounted.

Answers are made by a grammar of what services are known to send, each from a seed, cut into random pieces. Where they
are well-formed it is known which texts are in them; where they are broken, that nothing raises and all bytes pass.
`FUZZ_ROUNDS` (default 1) is how many times as many are made.
"""

from __future__ import annotations

import json
import math
import os
import random
from itertools import pairwise
from typing import Any

import pytest
from gateway_answers import answer_error, counted

from limiter_node.tokens.vocabulary import O200K_BASE
from limiter_node.upstream.gateway.cost.account import Account
from limiter_node.upstream.gateway.cost.chunk_account import ChunkAccount
from limiter_node.upstream.gateway.cost.responses_api_account import ResponsesApiAccount
from limiter_node.upstream.gateway.cost.usage import MOST_TOKENS
from limiter_node.upstream.gateway.cost.whole_answer import WholeReader
from limiter_node.upstream.gateway.lenient_json import BYTE_ORDER_MARK
from limiter_node.upstream.gateway.passing.event_reader import EventReader
from limiter_node.upstream.gateway.service_errors.in_band import find_in_band_error, to_in_band_error
from limiter_node.upstream.gateway.service_errors.openai_shape import openai_error
from limiter_node.upstream.gateway.sse import looks_like_stream

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "1"))
WORDS = ("one", " two", "Straße", "日本語", "\n", "🎉", '"', "\\", "  ", "\u2028", "{}", "data: ", "\x00", "a" * 99)
SURROGATES = ("\ud800", "a\udc00b", "\ud83d")
ENDS = ("\n", "\n", "\n", "\r\n", "\r")
FAULTS = (b"\xff", b"\xed\xa0\x80", b"\n\n", b"\r", b'"', b"[", b"{" * 99, b"NaN")
NUMBERS: tuple[Any, ...] = (0, 1, -1, 3, 2**31, 2**63, 1.5, math.nan, math.inf, -math.inf, True, None, "3", "", [], {})


class Maker:
    """Makes one answer from a seed; `texts` are those in it that are output."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.texts: list[str] = []

    def maybe(self, chance: float) -> bool:
        return self.random.random() < chance

    def text(self) -> str:
        words = [self.random.choice(WORDS) for _ in range(self.random.randint(1, 4))]
        if self.maybe(0.1):
            words.append(self.random.choice(SURROGATES))
        return "".join(words)

    def said(self) -> str:
        """A text that is output."""
        text = self.text()
        self.texts.append(text)
        return text

    def call(self) -> dict[str, Any]:
        kind = self.random.choice(("function", "custom"))
        arguments = "arguments" if kind == "function" else "input"
        return {"index": 0, "id": "call_1", "type": kind, kind: {"name": self.said(), arguments: self.said()}}

    def reasoning(self) -> dict[str, Any]:
        text = self.said()
        shapes: list[dict[str, Any]] = [
            {"reasoning": text},
            {"reasoning_content": text},
            {"reasoning": text, "reasoning_content": text},
            {"reasoning_details": [{"type": "reasoning.text", "text": text, "signature": "c2ln"}]},
            {"reasoning": text, "reasoning_details": [{"type": "reasoning.text", "text": text}]},
            {"reasoning_details": [{"type": "reasoning.summary", "summary": text}]},
            {"thinking_blocks": [{"type": "thinking", "thinking": text, "signature": "c2ln"}]},
            {"reasoning_content": text, "thinking_blocks": [{"type": "thinking", "thinking": text}]},
        ]
        return self.random.choice(shapes)

    def message(self) -> dict[str, Any]:
        """A message or a delta."""
        fields: dict[str, Any] = {}
        if self.maybe(0.3):
            fields["role"] = "assistant"
        if self.maybe(0.6):
            fields["content"] = self.said()
        elif self.maybe(0.3):
            fields["content"] = [{"type": "text", "text": self.said()}, self.said()]
        elif self.maybe(0.3):
            fields["content"] = [{"type": "thinking", "thinking": [{"type": "text", "text": self.said()}]}]
        elif self.maybe(0.3):
            fields["content"] = self.random.choice((None, "", []))
        if self.maybe(0.2):
            fields |= self.reasoning()
        if self.maybe(0.1):
            fields["refusal"] = self.said()
        if self.maybe(0.1):
            fields["audio"] = {"id": "a", "data": "UklGRg==", "transcript": self.said()}
        if self.maybe(0.15):
            fields["tool_calls"] = [self.call() for _ in range(self.random.randint(1, 2))]
        if self.maybe(0.05):
            fields["function_call"] = {"name": self.said(), "arguments": self.said()}
        if self.maybe(0.1):
            fields["annotations"] = [{"type": "url_citation", "url_citation": {"title": self.text()}}]
        return fields

    def noise(self) -> dict[str, Any]:
        """Fields that say nothing of the cost."""
        fields: dict[str, Any] = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        others = {
            "logprobs": None,
            "system_fingerprint": None,
            "timings": {"predicted_ms": self.random.choice((1.5, math.nan, math.inf, -math.inf))},
            "citations": ["https://a.example"],
            "obfuscation": "x" * self.random.randint(0, 9),
            "error": None,
            "prompt_filter_results": [],
        }
        names = self.random.sample(list(others), self.random.randint(0, 3))
        return fields | {name: others[name] for name in names}

    def lying_usage(self) -> dict[str, Any]:
        """A usage that tells no output."""
        number = self.random.choice((0, -1, None, "3", 1.5, [], {}, True))
        prompt = self.random.choice((0, 5, None, -3))
        output = self.random.choice(("completion_tokens", "output_tokens"))
        return {output: number, "prompt_tokens": prompt, "total_tokens": self.random.choice((None, 0, -1, "9"))}

    def chunk(self) -> dict[str, Any]:
        """A chunk of a chat or of a completion."""
        choice: dict[str, Any] = {"index": self.random.choice((0, 0, 0, 1, None)), "logprobs": None}
        kind = self.random.random()
        if kind < 0.75:
            choice["delta"] = self.message()
        elif kind < 0.85:
            choice["text"] = self.said()
        elif kind < 0.95:
            choice["message"] = self.message()
        else:
            choice["delta"] = self.random.choice((None, {}, []))
        choice["finish_reason"] = self.random.choice((None, None, None, "", "stop"))
        fields = self.noise() | {"choices": [choice]}
        if self.maybe(0.1):
            fields["usage"] = self.random.choice((None, self.lying_usage()))
        return fields

    def event(self, fields: Any, name: str = "") -> bytes:
        """`fields` as an event, in one of the ways to write it."""
        end = self.random.choice(ENDS)
        indent = 1 if self.maybe(0.1) else None
        data = json.dumps(fields, ensure_ascii=self.maybe(0.5), indent=indent).encode("utf-8", "surrogatepass")
        prefix = self.random.choice((b"data: ", b"data:"))
        lines = [prefix + line for line in data.split(b"\n")]
        if name:
            lines.insert(0, b"event: " + name.encode())
        elif self.maybe(0.1):
            lines.insert(0, self.random.choice((b": hi", b"id: 1", b"event: message", b"retry: 10")))
        return b"".join(line + end.encode() for line in lines) + end.encode()

    def chunks(self) -> bytes:
        """A stream of chunks that tells no usage."""
        parts = [self.event(self.chunk()) for _ in range(self.random.randint(1, 8))]
        others = (b": ping\n\n", b"\n\n", self.event({"choices": []}), b"data: null\n\n", self.event(self.noise()))
        for _ in range(self.random.randint(0, 3)):
            parts.insert(self.random.randint(0, len(parts)), self.random.choice(others))
        if self.maybe(0.5):
            parts.append(b"data: [DONE]\n\n")
        return self.random.choice((b"", b"", b"\xef\xbb\xbf")) + b"".join(parts)

    def response_events(self) -> bytes:
        """A stream of the Responses API that tells no usage."""
        parts = []
        kinds = ("output_text", "refusal", "reasoning_text", "reasoning_summary_text", "code_interpreter_call_code")
        for index in range(self.random.randint(1, 4)):
            if self.maybe(0.3):
                item = {"type": "function_call", "name": self.said(), "arguments": ""}
                added = {"type": "response.output_item.added", "output_index": index, "item": item}
                parts.append(self.event(added, "response.output_item.added"))
                kind = "function_call_arguments"
            else:
                kind = self.random.choice(kinds)
            whole = ""
            for _ in range(self.random.randint(1, 3)):
                whole += (text := self.said())
                delta = {"type": f"response.{kind}.delta", "output_index": index, "delta": text}
                parts.append(self.event(delta, f"response.{kind}.delta"))
            done = {"type": f"response.{kind}.done", "output_index": index, "text": whole, "arguments": whole}
            parts.append(self.event(done))
        if self.maybe(0.5):
            usage = self.random.choice((None, self.lying_usage()))
            parts.append(self.event({"type": "response.completed", "response": {"output": [], "usage": usage}}))
        return b"".join(parts)

    def whole(self) -> bytes:
        """A whole answer that tells no usage."""
        choices: list[Any] = []
        for index in range(self.random.randint(1, 3)):
            if self.maybe(0.8):
                choices.append({"index": index, "message": self.message(), "finish_reason": "stop"})
            else:
                choices.append({"index": index, "text": self.said()})
        fields = self.noise() | {"choices": choices}
        if self.maybe(0.7):
            fields["usage"] = self.random.choice((None, self.lying_usage()))
        indent = self.random.choice((None, 1))
        return json.dumps(fields, ensure_ascii=self.maybe(0.5), indent=indent).encode("utf-8", "surrogatepass")

    def broken(self, data: bytes) -> bytes:
        """`data` with a few faults."""
        damaged = bytearray(data)
        for _ in range(self.random.randint(1, 4)):
            at = self.random.randint(0, len(damaged))
            kind = self.random.randint(0, 4)
            if kind == 0:
                del damaged[at : at + self.random.randint(1, 9)]
            elif kind == 1:
                damaged[at:at] = self.random.choice(FAULTS)
            elif kind == 2 and damaged:
                damaged[at % len(damaged)] = self.random.randrange(256)
            elif kind == 3:
                del damaged[at:]
            else:
                other = json.dumps(self.random.choice(NUMBERS)).encode()
                start = damaged.find(b":", at)
                damaged[start + 1 : start + 2] = other
        return bytes(damaged)

    def pieces(self, data: bytes) -> list[bytes]:
        """`data`, cut at random."""
        count = self.random.choice((0, 1, 3, 30))
        at = sorted({self.random.randint(0, len(data)) for _ in range(count)} | {0, len(data)})
        return [data[start:end] for start, end in pairwise(at)]


def read(account: Account, pieces: list[bytes]) -> bytes:
    """What passes."""
    reader = EventReader(account)
    return b"".join([*[reader.feed(piece) for piece in pieces], reader.rest()])


def read_whole(pieces: list[bytes], **options: Any) -> WholeReader:
    reader = WholeReader(O200K_BASE, **options)
    for piece in pieces:
        reader.feed(piece)
    reader.finish()
    return reader


def account_of(maker: Maker, *, is_response: bool, hides_usage: bool = False) -> Account:
    if is_response:
        return ResponsesApiAccount(O200K_BASE)
    return ChunkAccount(O200K_BASE, hides_usage=hides_usage, choices=maker.random.randint(1, 3))


@pytest.mark.parametrize("is_response", [False, True], ids=["chunks", "responses"])
def test_streams_pass_and_all_their_text_is_counted(is_response: bool) -> None:
    for seed in range(400 * ROUNDS):
        maker = Maker(seed)
        stream = maker.response_events() if is_response else maker.chunks()
        account = account_of(maker, is_response=is_response)
        assert read(account, maker.pieces(stream)) == stream, seed
        assert account.error is None, seed
        assert account.output_tokens >= counted(*maker.texts), (seed, stream)
        in_one_piece = account_of(maker, is_response=is_response)
        read(in_one_piece, [stream])
        assert in_one_piece.output_tokens == account.output_tokens, seed


def test_the_usage_alone_is_taken_out() -> None:
    for seed in range(200 * ROUNDS):
        maker = Maker(seed)
        usage = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}
        before, after = maker.chunks(), maker.chunks().removeprefix(BYTE_ORDER_MARK)
        hidden = maker.event({"id": "x", "choices": maker.random.choice(([], None)), "usage": usage})
        account = ChunkAccount(O200K_BASE, hides_usage=True, choices=1)
        passed = read(account, maker.pieces(before + hidden + after))
        # Usages that tell nothing pass, and so do those beside choices.
        # An empty line too many may go with what follows it.
        assert passed.split() == (before + after).split(), seed
        assert account.input_tokens >= 5, seed
        assert account.output_tokens * 8 >= counted(*maker.texts), seed


def test_whole_answers_are_read_and_all_their_text_is_counted() -> None:
    for seed in range(400 * ROUNDS):
        maker = Maker(seed)
        body = maker.whole()
        assert find_in_band_error(body, is_complete=True) is None, seed
        reader = read_whole(maker.pieces(body), choices=maker.random.randint(1, 3))
        assert reader.output_tokens >= counted(*maker.texts), (seed, body)


@pytest.mark.parametrize("kind", ["chunks", "response_events", "whole"])
def test_broken_answers_break_nothing(kind: str) -> None:
    for seed in range(600 * ROUNDS):
        maker = Maker(seed)
        answer = maker.broken(getattr(maker, kind)())
        pieces = maker.pieces(answer)
        looks_like_stream(pieces[0] if pieces else b"")
        hides_usage = maker.maybe(0.5)
        account = account_of(maker, is_response=kind == "response_events", hides_usage=hides_usage)
        passed = read(account, pieces)
        assert 0 <= account.output_tokens <= max(MOST_TOKENS, len(answer)), seed
        assert 0 <= account.input_tokens <= MOST_TOKENS, seed
        if account.error is None and not hides_usage:
            assert passed == answer, seed
        errors = [
            answer_error(answer, is_complete=maker.maybe(0.5), is_stream=kind != "whole"),
            to_in_band_error(account.error),
        ]
        for error in errors:
            assert error is None or 400 <= error.to_upstream_error("secret").status < 600, seed
        reader = read_whole(pieces, choices=2, has_output=maker.maybe(0.5))
        assert 0 <= reader.output_tokens <= max(MOST_TOKENS, len(answer)), seed
        assert type(json.loads(openai_error(400, answer, "secret"))["error"]["message"]) is str, seed
