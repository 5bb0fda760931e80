"""Our commands in the test's own process: a process for each costs a quarter of a second, most of it for imports."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
from pathlib import Path

import pytest

import bench_client.cli
import limiter_node.cli

_CODE_OF = {"limiter-node": limiter_node.cli.run, "bench-client": bench_client.cli._run_cli}


def output_of(program: str, *arguments: str, folder: Path | None = None) -> str:
    """Run a command in that folder and return what it writes to stdout; it has to end with exit code 0.

    Where an event loop runs, call it in a thread: any command but those that wait for signals.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with (
        contextlib.chdir(folder or "."),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as environment,
    ):
        for name in os.environ:
            if name.startswith(("LIMITER_", "BENCH_")):
                environment.delenv(name)
        code = _CODE_OF[program](arguments)
    out.seek(0)
    err.seek(0)
    assert code == 0, f"{program} {shlex.join(arguments)}: {err.read()}"
    return out.read()


class Terminal(io.StringIO):
    """Standard input that is a terminal."""

    def isatty(self) -> bool:
        return True
