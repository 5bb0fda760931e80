"""``limiter-node up`` in front of services, as users start it: keys, several services, wrong options."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from fleet import chat, running_fleet
from ports import free_port
from scripted_service import ScriptedService, running_service

NODE = (sys.executable, "-m", "limiter_node")


async def test_services_by_model_and_keys_out_of_sight(service: ScriptedService, tmp_path: Path) -> None:
    """A node of its own process, with a key from the environment and one from a file; neither is in `ps` or a log."""
    async with running_service() as other:
        (tmp_path / "other.key").write_text("secret-from-file\n")
        (tmp_path / "upstreams.toml").write_text(
            f"""
            [[upstreams]]
            name = "local"
            models = ["llama-*"]
            url = "{service.base_url}"
            key_env = "LOCAL_MODEL_KEY"
            rename = {{ "llama-*" = "meta/llama-*" }}

            [[upstreams]]
            models = ["*"]
            urls = ["{other.base_url}"]
            key_file = "other.key"
            cap_field = "max_completion_tokens"
            """
        )
        os.environ["LOCAL_MODEL_KEY"] = "secret-from-env"
        try:
            with running_fleet(
                tmp_path, "--store", "single", "--upstreams", str(tmp_path / "upstreams.toml"), nodes=1
            ) as fleet:
                seen = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
                api_key = fleet.new_key(output_reserve=33)
                async with ClientSession() as session:
                    for model in ("llama-8b", "gpt-x"):
                        response, answer = await chat(session, fleet.nodes[0], api_key, model=model)
                        assert (response.status, answer["usage"]["completion_tokens"]) == (200, 3)
                    async with session.get(f"{fleet.nodes[0]}/metrics") as metrics:
                        page = await metrics.text()
        finally:
            del os.environ["LOCAL_MODEL_KEY"]
    (local,), (rest,) = service.asked, other.asked
    assert local.headers["authorization"] == "Bearer secret-from-env"
    assert (local.fields["model"], local.fields["max_tokens"]) == ("meta/llama-8b", 33)
    assert rest.headers["authorization"] == "Bearer secret-from-file"
    assert (rest.fields["model"], rest.fields["max_completion_tokens"]) == ("gpt-x", 33)
    target = other.base_url.split("/")[2]
    assert 'limiter_upstream_requests_total{outcome="ok",upstream="local"} 1.0' in page
    assert f'limiter_upstream_requests_total{{outcome="ok",upstream="{target}"}} 1.0' in page
    assert f'limiter_upstream_target_ejected{{target="{target}",upstream="{target}"}} 0.0' in page
    for text in (seen, (tmp_path / "stderr").read_text(), page):
        assert "secret-from" not in text


async def test_the_key_of_the_only_upstream_comes_from_the_environment(
    service: ScriptedService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**os.environ, "LIMITER_UPSTREAM_KEY": "secret-of-one", "LIMITER_UPSTREAM": service.base_url}
    command = [*NODE, "up", "--nodes", "1", "--port", str(free_port()), "--store", "single"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "ready\n":
                break
        shown = next(line for line in lines if line.startswith("  curl"))
        assert "YOUR-MODEL" in shown, "nobody knows what the service serves"
        assert lines[0] == f"upstream {service.base_url}\n"
        api_key = next(line for line in lines if line.startswith("demo key")).split()[2].rstrip(";")
        url = next(line for line in lines if line.startswith("node 1 ready")).split()[3]
        async with ClientSession() as session:
            response, _ = await chat(session, url, api_key)
        assert response.status == 200
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert service.asked[0].headers["authorization"] == "Bearer secret-of-one"


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["--upstream", "localhost:8000/v1"], {}, "https://HOST/v1"),
        (["--upstream", "http://user:pass-word@host/v1"], {}, "must not hold a user"),
        (["--upstream", "http://h/v1", "--upstreams", "x.toml"], {}, "give one of them"),
        (["--upstreams", "/nowhere/x.toml"], {}, "/nowhere/x.toml"),
        (["--upstream", "http://h/v1", "--upstream-key-file", "/nowhere/key"], {}, "/nowhere/key"),
        (["--upstream", "http://h/v1"], {"LIMITER_UPSTREAM_KEY": "two words"}, "LIMITER_UPSTREAM_KEY"),
        (["--upstream-forward-key", "true"], {}, "need --upstream"),
        (
            ["--upstream", "http://h/v1", "--upstream-forward-key", "true"],
            {"LIMITER_UPSTREAM_KEY": "k"},
            "give one of them",
        ),
        (["--upstream", "http://h/v1", "--upstream-read-timeout", "nan"], {}, "--upstream-read-timeout"),
    ],
)
def test_wrong_options_end_in_one_line(arguments: list[str], environment: dict[str, str], says: str) -> None:
    # Both commands read the same options; one case shows that both check them.
    for command in ("up", "serve") if says == "https://HOST/v1" else ("up",):
        store = [] if command == "up" else ["--store", "redis://127.0.0.1:1"]
        done = subprocess.run(
            [*NODE, command, *store, *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, **environment},
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert "pass-word" not in done.stderr
        assert "two words" not in done.stderr


def test_a_file_that_is_wrong_says_where(tmp_path: Path) -> None:
    file = tmp_path / "upstreams.toml"
    file.write_text(json.dumps({"x": 1}))
    done: Any = subprocess.run(
        [*NODE, "up", "--upstreams", str(file)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert str(file) in done.stderr
