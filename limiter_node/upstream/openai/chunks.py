"""Streamed answers of the two completion routes: chunks. See `limiter_node.upstream.openai.stream_events`.

The parts that all chunks of a response share are rendered once; per delta only the text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from limiter_node.upstream.openai.chat import chat_usage, model_piece, tool_calls
from limiter_node.upstream.openai.stream_events import error_event
from limiter_node.upstream.source import Delta

_DONE = b"data: [DONE]\n\n"


class ChatChunks:
    """Render `chat.completion.chunk` events. Each choice begins with its role and ends with its finish reason."""

    def __init__(
        self,
        *,
        request_id: str,
        created: int,
        model: str,
        n: int,
        input_tokens: int,
        include_usage: bool,
        system_fingerprint: str | None,
    ) -> None:
        self._head = (
            b'data: {"id":"chatcmpl-%b","object":"chat.completion.chunk","created":%d%b,'
            b'"service_tier":"default","system_fingerprint":%b,"choices":['
            % (
                request_id.removeprefix("req_").encode(),
                created,
                model_piece(model),
                orjson.dumps(system_fingerprint),
            )
        )
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._request_id = request_id
        self._before = [b'%b{"index":%d,"delta":{"content":' % (self._head, index) for index in range(n)]
        self._after = b'},"logprobs":null,"finish_reason":null}' + self._tail
        self._input_tokens = input_tokens
        self._include_usage = include_usage

    def start(self) -> bytes:
        """Return the chunks with the role, one for every choice."""
        return b"".join(
            [
                b'%b{"index":%d,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,'
                b'"finish_reason":null}%b' % (self._head, index, self._tail)
                for index in range(len(self._before))
            ]
        )

    def delta(self, delta: Delta) -> bytes:
        """Return chunks with the text, the tool calls and the finish reason, as far as `delta` has them."""
        chunk = self._before[delta.choice] + orjson.dumps(delta.text) + self._after if delta.text else b""
        if delta.finish_reason is None:
            return chunk
        if delta.tool_calls:
            calls = tool_calls(delta.tool_calls, delta.choice, self._request_id)
            indexed = [{"index": number, **call} for number, call in enumerate(calls)]
            chunk += b'%b{"index":%d,"delta":{"tool_calls":%b},"logprobs":null,"finish_reason":null}%b' % (
                self._head,
                delta.choice,
                orjson.dumps(indexed),
                self._tail,
            )
        return chunk + b'%b{"index":%d,"delta":{},"logprobs":null,"finish_reason":%b}%b' % (
            self._head,
            delta.choice,
            orjson.dumps(delta.finish_reason),
            self._tail,
        )

    def finish(self, output_tokens: int) -> bytes:
        """Return the usage, where it was asked for, and ``[DONE]``."""
        if not self._include_usage:
            return _DONE
        return b'%b],"usage":%b}\n\n%b' % (self._head, chat_usage(self._input_tokens, output_tokens), _DONE)

    def error(self, body: bytes) -> bytes:
        """Return OpenAI's error object in an event; OpenAI's clients raise it. No ``[DONE]`` follows."""
        return error_event(body)


class CompletionChunks:
    """Render `text_completion` events of the older route. A choice's last chunk has no text but the finish reason."""

    def __init__(
        self,
        *,
        request_id: str,
        created: int,
        model: str,
        input_tokens: int,
        include_usage: bool,
        system_fingerprint: str | None,
        echoes: Sequence[str] = (),
    ) -> None:
        self._echoes = echoes
        self._head = b'data: {"id":"cmpl-%b","object":"text_completion","created":%d,"choices":[' % (
            request_id.removeprefix("req_").encode(),
            created,
        )
        self._model = b"]%b,%b" % (
            model_piece(model),
            b'"system_fingerprint":' + orjson.dumps(system_fingerprint),
        )
        self._tail = self._model + (b',"usage":null}\n\n' if include_usage else b"}\n\n")
        self._input_tokens = input_tokens
        self._include_usage = include_usage

    def start(self) -> bytes:
        """Return the prompts if they are asked for, else nothing: these chunks have no role."""
        return b"".join([self._chunk(index, echo, None) for index, echo in enumerate(self._echoes)])

    def delta(self, delta: Delta) -> bytes:
        """Return a chunk with the text, if there is any, and one with the finish reason, if it is known."""
        chunk = self._chunk(delta.choice, delta.text, None) if delta.text else b""
        return chunk if delta.finish_reason is None else chunk + self._chunk(delta.choice, "", delta.finish_reason)

    def finish(self, output_tokens: int) -> bytes:
        """Return the usage, where it was asked for, and ``[DONE]``."""
        if not self._include_usage:
            return _DONE
        return b'%b%b,"usage":%b}\n\n%b' % (
            self._head,
            self._model,
            chat_usage(self._input_tokens, output_tokens),
            _DONE,
        )

    def error(self, body: bytes) -> bytes:
        """Return OpenAI's error object in an event; no ``[DONE]`` follows."""
        return error_event(body)

    def _chunk(self, index: int, text: str, reason: str | None) -> bytes:
        return b'%b{"text":%b,"index":%d,"logprobs":null,"finish_reason":%b}%b' % (
            self._head,
            orjson.dumps(text),
            index,
            b"null" if reason is None else orjson.dumps(reason),
            self._tail,
        )
