"""Bytes that attackers send and hostile services answer with, built once before anything is measured."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from functools import cache

MIB = 1 << 20
KNOWN, UNKNOWN, OTHERS = "sk-attack", "sk-nobody-%d", "sk-others"
"""API keys: the attacker's own, within its limits; those that no store has; the well-behaved client's."""


def head(path: str, key: str | None, length: int, *lines: str, method: str = "POST") -> bytes:
    """The head of a request with a body of `length` bytes; no authorization where there is no key."""
    authorization = [f"Authorization: Bearer {key}"] if key else []
    fields = ["Host: node", *authorization, "Content-Type: application/json", f"Content-Length: {length}", *lines]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *fields, "", ""]).encode()


def request(path: str, key: str | None, body: bytes, *lines: str, method: str = "POST") -> bytes:
    return head(path, key, len(body), *lines, method=method) + body


@cache
def bomb(mib: int, container: str = "gzip") -> bytes:
    """Blanks that unpack to so many MiB, in ``gzip`` or ``deflate`` (zlib's format)."""
    packer = zlib.compressobj(9, wbits=31 if container == "gzip" else 15)
    blanks = b" " * MIB
    return b"".join([*(packer.compress(blanks) for _ in range(mib)), packer.flush()])


@cache
def empty_members(size: int) -> bytes:
    """So many bytes of gzip that unpack to nothing: members of 20 bytes, each of which wants an unpacker of its own."""
    packer = zlib.compressobj(9, wbits=31)
    member = packer.flush()
    return member * (size // len(member))


def chunklets(path: str, key: str | None, body: bytes, size: int = 1) -> bytes:
    """A request whose body comes in chunks of so many bytes."""
    whole = head(path, key, 0)
    start = whole.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    chunks = [body[begin : begin + size] for begin in range(0, len(body), size)]
    return start + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def chat(model: str, **fields: object) -> bytes:
    """A small chat request; the model's name tells the hostile service what to do."""
    messages = [{"role": "user", "content": "Hello"}]
    return json.dumps({"model": model, "max_tokens": 16, "messages": messages, **fields}).encode()


def filled(model: str, size: int, unit: bytes, field: str = "x") -> bytes:
    """A chat request of about `size` bytes, filled by a list of `unit`."""
    start = b'{"model":"%b","max_tokens":16,"messages":[{"role":"user","content":"a"}],"%b":[' % (
        model.encode(),
        field.encode(),
    )
    count = (size - len(start) - 2) // (len(unit) + 1)
    return start + b",".join([unit] * count) + b"]}"


def _said(model: str, text: str) -> bytes:
    fields = {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": text}]}
    return json.dumps(fields, ensure_ascii=False).encode()


def _random_text(size: int) -> str:
    # Printable ASCII without what JSON escapes: the slowest text known for the tokenizer.
    alphabet = "".join(chr(code) for code in range(33, 127) if chr(code) not in '"\\')
    return "".join(random.Random(40).choices(alphabet, k=size))


def _nested(model: str, size: int) -> bytes:
    depth = (size - 200) // 2
    deep = b"[" * depth + b"]" * depth
    return b'{"model":"%b","messages":[{"role":"user","content":"a"}],"x":%b}' % (model.encode(), deep)


def _many_keys(model: str, size: int) -> bytes:
    pairs = ",".join(f'"k{number:07}":1' for number in range((size - 100) // 13))
    return f'{{"model":"{model}","messages":[{{"role":"user","content":"a"}}],"x":{{{pairs}}}}}'.encode()


def _tools(model: str, size: int) -> bytes:
    count, of_property, of_function = 128, 116, 300
    values = {"type": "string", "description": "d " * 20, "enum": ["a", "b"]}
    properties = {f"property{n:04}": values for n in range((size // count - of_function) // of_property)}
    function = {"description": "x" * 100, "parameters": {"type": "object", "properties": properties}}
    tools = [{"type": "function", "function": {"name": f"f{number}", **function}} for number in range(count)]
    return chat(model, tools=tools)


def _messages(model: str, size: int) -> bytes:
    messages = [{"role": "user", "content": "a"}] * (size // 36)
    return json.dumps({"model": model, "max_tokens": 16, "messages": messages}).encode()


def _image(model: str, size: int) -> bytes:
    url = "data:image/png;base64," + "QUJD" * (size // 4 - 60)
    part = {"type": "image_url", "image_url": {"url": url}}
    return json.dumps({"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": [part]}]}).encode()


WORST: dict[str, Callable[[str, int], bytes]] = {
    "[],[],…": lambda model, size: filled(model, size, b"[]"),
    "[],[],… as documents": lambda model, size: filled(model, size, b"[]", "documents"),
    "1,1,1,…": lambda model, size: filled(model, size, b"1"),
    '"","",…': lambda model, size: filled(model, size, b'""'),
    "small strings": lambda model, size: filled(model, size, b'"abc"'),
    "long strings": lambda model, size: filled(model, size, b'"' + b"a" * 65_536 + b'"'),
    "escapes": lambda model, size: filled(model, size, b'"' + b"\\u0001" * 10_000 + b'"'),
    "many keys": _many_keys,
    "deep nesting": _nested,
    "128 large tools": _tools,
    "tiny messages": _messages,
    "one image": _image,
    "one letter": lambda model, size: _said(model, "a" * (size - 200)),
    "words": lambda model, size: _said(model, "The quick brown fox jumps. " * ((size - 200) // 27)),
    "blanks": lambda model, size: chat(model).ljust(size),
    "blanks in a text": lambda model, size: _said(model, " " * (size - 200)),
    "random ASCII": lambda model, size: _said(model, _random_text(size - 200)),
    "CJK": lambda model, size: _said(model, "漢字仮名交じり文" * ((size - 200) // 24)),
    "emoji": lambda model, size: _said(model, "👩‍👩‍👧‍👦🏳️‍🌈" * ((size - 200) // 46)),
    "long number": lambda model, size: b'{"model":"%b","messages":[],"x":%b}' % (model.encode(), b"9" * (size - 200)),
}
"""The worst that a body of at most `size` bytes may hold, for one part of the node or another."""
