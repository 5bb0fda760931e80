"""A streamed answer of the Responses API: named events of a message with one text, or of calls, numbered from 0.

`response.created`, `response.in_progress`, the item and its part opened, the text in deltas, part and item closed, and
`response.completed` with the whole response and its usage, or `response.incomplete` if the cap cut it. The response
object itself comes from the caller, since most of it repeats the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from limiter_node.upstream.openai.responses_api import call_item, responses_api_usage
from limiter_node.upstream.source import Delta, ToolCall

_PLACE = {"output_index": 0, "content_index": 0}


class ResponsesApiEvents:
    """Render one streamed answer; see `limiter_node.upstream.openai.stream_events.StreamEvents`.

    `response` is the response object before any output. Its ``status``, ``output``, ``usage`` and
    ``incomplete_details`` are set here. `message_id` is the output item's id.
    """

    def __init__(self, response: dict[str, Any], *, message_id: str, input_tokens: int) -> None:
        self._response = {**response, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
        self._message_id = message_id
        self._input_tokens = input_tokens
        self._number = 0
        self._texts: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._reason: str | None = None
        self._before = (
            b"event: response.output_text.delta\n"
            b'data: {"type":"response.output_text.delta","item_id":%b,"output_index":0,"content_index":0,"delta":'
            % orjson.dumps(message_id)
        )

    def start(self) -> bytes:
        """Return the events that open the response, with its object before any output."""
        return self._event("response.created", response=self._response) + self._event(
            "response.in_progress", response=self._response
        )

    def delta(self, delta: Delta) -> bytes:
        """Return the events of the text or the calls, if there are any; `finish` closes them."""
        if delta.finish_reason is not None:
            self._reason = delta.finish_reason
        if delta.tool_calls:
            return self._called(delta.tool_calls)
        if not delta.text:
            return b""
        if not self._texts:
            return self._opened() + self._text(delta.text)
        return self._text(delta.text)

    def _opened(self) -> bytes:
        """Return the events that open the message and the part for the text."""
        return self._event(
            "response.output_item.added", output_index=0, item=self._item("in_progress", [])
        ) + self._event("response.content_part.added", item_id=self._message_id, **_PLACE, part=_part(""))

    def _called(self, calls: Sequence[ToolCall]) -> bytes:
        """Return the events of each call: opened, its payload in one piece, closed."""
        events = []
        digits = self._message_id.removeprefix("msg_")
        for number, call in enumerate(calls):
            item = call_item(call, f"{digits}{number}", "completed")
            self._calls.append(item)
            member, kind = (
                ("arguments", "function_call_arguments")
                if call.kind == "function"
                else ("input", "custom_tool_call_input")
            )
            place = {"item_id": item["id"], "output_index": number}
            done = {member: call.payload, **({"name": call.name} if call.kind == "function" else {})}
            opened = {**item, "status": "in_progress", member: ""}
            events += [
                self._event("response.output_item.added", output_index=number, item=opened),
                self._event(f"response.{kind}.delta", **place, delta=call.payload),
                self._event(f"response.{kind}.done", **place, **done),
                self._event("response.output_item.done", output_index=number, item=item),
            ]
        return b"".join(events)

    def _text(self, text: str) -> bytes:
        # Kept because the closing events repeat the whole text.
        self._texts.append(text)
        self._number += 1
        return b'%b%b,"logprobs":[],"sequence_number":%d}\n\n' % (
            self._before,
            orjson.dumps(text),
            self._number - 1,
        )

    def finish(self, output_tokens: int) -> bytes:
        """Return the events that close part, item and response, each complete. These streams have no ``[DONE]``."""
        text = "".join(self._texts)
        is_cut = self._reason == "length"
        status = "incomplete" if is_cut else "completed"
        item = self._item(status, [_part(text)])
        response = {
            **self._response,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": self._calls or [item],
            "usage": responses_api_usage(self._input_tokens, output_tokens),
        }
        if self._calls:
            return self._event(f"response.{status}", response=response)
        place = {"item_id": self._message_id, **_PLACE}
        return b"".join(
            (
                b"" if self._texts else self._opened(),
                self._event("response.output_text.done", **place, text=text, logprobs=[]),
                self._event("response.content_part.done", **place, part=_part(text)),
                self._event("response.output_item.done", output_index=0, item=item),
                self._event(f"response.{status}", response=response),
            )
        )

    def error(self, body: bytes) -> bytes:
        """Return an `error` event with the members of OpenAI's error object."""
        self._number += 1
        return responses_api_error_event(body, self._number - 1)

    def _event(self, kind: str, **members: Any) -> bytes:
        data = {"type": kind, **members, "sequence_number": self._number}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(data))

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._message_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def responses_api_error_event(body: bytes, number: int) -> bytes:
    """Return the event that breaks off such a stream: `number`, and the members of the error object `body`."""
    error = orjson.loads(body)["error"]
    members = {name: error.get(name) for name in ("code", "message", "param")}
    return b"event: error\ndata: %b\n\n" % orjson.dumps({"type": "error", **members, "sequence_number": number})
