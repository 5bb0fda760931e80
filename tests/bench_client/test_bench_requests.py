"""Keys, targets and the bytes of requests."""

from __future__ import annotations

import hashlib
import json
import warnings
from array import array
from pathlib import Path

import pytest

from bench_client.errors import BenchUsageError
from bench_client.load.keys import read_keys
from bench_client.load.prompts import CHAT_OVERHEAD_TOKENS, STARTS, WORDS, RequestRenderer
from bench_client.load.workload import Workload
from bench_client.servers.targets import LoadTarget

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of importlib.resources, in the library itself
    import bpe_openai


def renderer(inputs: list[int], outputs: list[int], *, cap_output: bool = True) -> RequestRenderer:
    count = len(inputs)
    workload = Workload(
        array("q", range(count)),
        array("I", [i % 2 for i in range(count)]),
        array("I", [i % 2 for i in range(count)]),
        array("I", inputs),
        array("I", outputs),
        1.0,
    )
    heads = [LoadTarget.parse(url).request_head for url in ("http://one:81", "http://two/prefix/")]
    return RequestRenderer(
        workload, request_heads=heads, secrets=["sk-a", "sk-b"], models=['a "model"'], cap_output=cap_output
    )


def parsed(request: bytes) -> tuple[str, dict[str, str], dict[str, object]]:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["Content-Length"]) == len(body)
    return first, headers, json.loads(body)


def test_a_request_has_its_target_key_and_sizes() -> None:
    render = renderer([25, 40], [12, 900]).render
    first, headers, body = parsed(render(0))
    assert first == "POST /v1/chat/completions HTTP/1.1"
    assert (headers["Host"], headers["Authorization"]) == ("one:81", "Bearer sk-a")
    assert (body["model"], body["max_tokens"]) == ('a "model"', 12)
    first, headers, body = parsed(render(1))
    assert first == "POST /prefix/v1/chat/completions HTTP/1.1"
    assert (headers["Host"], headers["Authorization"], body["max_tokens"]) == ("two", "Bearer sk-b", 900)


def test_without_a_cap_max_tokens_is_left_out() -> None:
    assert "max_tokens" not in parsed(renderer([25], [12], cap_output=False).render(0))[2]


@pytest.mark.parametrize("size", [1, 8, 25, 500, 4000])
def test_prompts_have_the_planned_tokens(size: int) -> None:
    encoding = bpe_openai.get_encoding("o200k_base")
    _, _, body = parsed(renderer([size] * (STARTS + 1), [1] * (STARTS + 1)).render(STARTS - 1))
    content = body["messages"][0]["content"]  # type: ignore[index]
    assert len(encoding.encode(content)) + CHAT_OVERHEAD_TOKENS == max(size, CHAT_OVERHEAD_TOKENS + 1)


def test_equal_sizes_are_not_equal_prompts() -> None:
    render = renderer([25] * STARTS, [1] * STARTS).render
    assert len({render(i) for i in range(STARTS)}) > STARTS // 2


def test_every_word_is_one_token() -> None:
    encoding = bpe_openai.get_encoding("o200k_base")
    assert [word for word in WORDS if len(encoding.encode(" " + word)) != 1] == []


def test_keys_are_named_by_digest_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f'[defaults]\nrpm = 5\n[keys."sk-a"]\nname = "alice"\n[keys."sk-b"]\n[keys."sha256:{"0" * 64}"]\n')
    ring = read_keys(path)
    digest = hashlib.sha256(b"sk-b").hexdigest()[:12]
    assert [(key.secret, key.name) for key in ring.keys] == [("sk-a", "alice"), ("sk-b", digest)]
    assert ring.keys[1].key_id == digest
    assert ring.skipped == 1
    assert "sk-a" not in repr(ring)


def test_keys_with_credentials_are_sent_by_the_first_secret_that_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(
        """
        [keys.ci]
        credentials = ["sha256:00", { secret = "sk-old", expires = 2001-01-01T00:00:00Z }, "sk-new", "sk-x"]
        [keys.named]
        name = "alice"
        credentials = [{ secret = "sk-a", expires = 9000-01-01T00:00:00+01:00 }]
        [keys.digests]
        credentials = ["sha256:00", { secret = "sha256:01" }]
        [keys.sk-ended]
        expires = 2001-01-01T00:00:00Z
        """
    )
    ring = read_keys(path)
    assert [(key.secret, key.name) for key in ring.keys] == [("sk-new", "ci"), ("sk-a", "alice")]
    assert ring.skipped == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "declares no keys"),
        ("[keys]\n", "no key in plain text"),
        ("keys = 5\n", "declares no keys"),
        ("[keys]\na = 5\n", "declares no keys"),
        ('[keys."sha256:00"]\n', "no key in plain text"),
        ('[keys.ci]\ncredentials = ["sha256:00"]\n', "no key in plain text"),
        ("[keys.ci]\ncredentials = 1\n", "no key in plain text"),
        ('[keys.ci]\ncredentials = ["a b"]\n', "no HTTP header"),
        ('[keys."sk-ä"]\n', "no HTTP header"),
        ('[keys."a b"]\n', "no HTTP header"),
        ('[keys."a\\r\\nx: y"]\n', "no HTTP header"),
        ("[keys", "not a valid keys file"),
    ],
)
def test_wrong_keys_files_are_refused(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BenchUsageError, match=says):
        read_keys(path)


def test_targets() -> None:
    target = LoadTarget.parse("https://[::1]/x/")
    assert (target.host, target.port, target.tls, target.path, target.authority) == ("::1", 443, True, "/x", "[::1]")
    assert LoadTarget.parse("http://h:8080").authority == "h:8080"


@pytest.mark.parametrize(
    "url", ["", "h:80", "ftp://h", "http://", "http://h:x", "http://h?a=b", "http://a:b@h", "http://h\n/"]
)
def test_wrong_targets_are_refused(url: str) -> None:
    with pytest.raises(BenchUsageError, match="use http://HOST:PORT"):
        LoadTarget.parse(url)
