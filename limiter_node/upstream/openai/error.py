"""OpenAI's error object: the body of every error that a caller is sent."""

from __future__ import annotations

import orjson


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None, **more: object) -> bytes:
    """Return OpenAI's error object. Lone surrogates, which a request's path may bring along, are replaced.

    `more`: fields beside OpenAI's.
    """
    error = {"error": {"message": message, "type": kind, "param": param, "code": code, **more}}
    try:
        return orjson.dumps(error)
    except TypeError:
        error["error"]["message"] = message.encode("utf-8", "replace").decode()
        return orjson.dumps(error)
