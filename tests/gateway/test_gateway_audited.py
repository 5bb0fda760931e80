"""A short run in front of a service that fails in every way, judged by the audit; the long one is in tests/chaos."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from audited_run import NODE_OPTIONS, run_and_judge
from chaos.chaos_scene import Scene, write_keys
from fleet import running_fleet
from gateway.flaky_upstream import KINDS, MODEL, FlakyUpstream

from limiter_node.store.embedded.stores import EmbeddedStore


async def test_a_run_with_every_failure_is_proved(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.toml")
    with FlakyUpstream(seed=7, share=0.06) as upstream:
        async with EmbeddedStore("single") as store:
            options = ("--store", store.url, "--keys", str(keys), "--upstream", upstream.url, *NODE_OPTIONS)
            with running_fleet(tmp_path, *options) as fleet:
                on = Scene(tmp_path, fleet, store, keys)
                await run_and_judge(on, upstream, requests=60, qps=200, seconds=6)


def test_the_service_does_what_it_is_told() -> None:
    """Streams and whole answers of one seed say the same, usage included; and it dies and comes back on its port."""
    with FlakyUpstream(seed=3, share=0) as upstream:
        whole = json.loads(ask(upstream, stream=False))
        upstream.kill()
        with pytest.raises(OSError, match="refused"):
            ask(upstream, stream=False)
        url = upstream.url
        upstream.start()
        assert upstream.url == url
        events = ask(upstream, stream=True, stream_options={"include_usage": True}).decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        *chunks, last = (json.loads(event.removeprefix("data: ")) for event in events[:-2])
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        for usage, words in (
            (last["usage"], text),
            (whole["usage"], whole["choices"][0]["message"]["content"]),
        ):
            assert usage["completion_tokens"] == words.count(" time") > 0
            assert usage["prompt_tokens"] == 11, "not as we would count"
        assert upstream.counts() == {"ok": 1}
        assert set(KINDS) >= {"500", "503", "429", "close", "cut", "garbage", "slow", "html", "empty"}


def ask(upstream: FlakyUpstream, **fields: object) -> bytes:
    body = {"model": MODEL, "max_tokens": 30, "messages": [{"role": "user", "content": "Hi"}], **fields}
    request = Request(upstream.url + "/chat/completions", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urlopen(request, timeout=10) as response:
        answer: bytes = response.read()
        return answer
