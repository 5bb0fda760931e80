"""Find the walk that shows each mutant first, and write it beside the mutant: ``python tests/lua/quickest_walks.py``.

Run it after a change of a script or of its walks, then `ruff format`. A hint that is still quick stays as it is. It
takes minutes where all have changed.
"""

from __future__ import annotations

import ast
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import redis
import test_paths_mutants
import test_script_mutants
from paths_driver import PEEK_PATHS, PathsDriver
from paths_pair import PathsPair
from reference import Reference
from script_driver import PEEK, Pair, Window, running_server, server_binary

QUICK_S, MOST_S = 0.015, 2.0
"""CPU time of this process: no better walk is searched for, and the longest that a walk is followed."""


def make_pair(client: redis.Redis, limits: None, *, width: int, decide_sha: str) -> Pair:
    pair = Pair(Window(client, "a-key", width, decide_sha=decide_sha), Reference(limits, width))
    pair.set_limits(limits)
    return pair


def make_paths_pair(client: redis.Redis, *, decide_sha: str) -> PathsPair:
    return PathsPair(PathsDriver(client, "@account", decide_sha))


def seconds_of(tests: ModuleType, client: redis.Redis, make: Any, source: str, seed: int, most_s: float) -> float:
    """Return how long a walk takes until it shows the mutant; `most_s` if it is no quicker than that."""
    client.flushall()
    begin_s, passed_s = time.process_time(), 0.0
    walk = tests.walk_of(client, make, source, seed)
    for _ in range(tests.STEPS):
        is_seen = tests.first_difference(walk, 1) is not None
        passed_s = time.process_time() - begin_s
        if is_seen or passed_s > most_s:
            return min(passed_s, most_s)
    return most_s


def quickest(tests: ModuleType, client: redis.Redis, make: Any, mutant: Any) -> int:
    source = tests.SOURCE.replace(mutant.text, mutant.replacement)
    best, best_s = mutant.walk, seconds_of(tests, client, make, source, mutant.walk, MOST_S)
    for seed in range(tests.WALKS):
        if best_s <= QUICK_S:
            break
        found_s = seconds_of(tests, client, make, source, seed, best_s)
        if found_s < best_s:
            best, best_s = seed, found_s
    print(f"{best_s * 1000:5.0f} ms  walk {best:3}  {mutant.name}", flush=True)
    return best


def write(file: Path, walks: list[int]) -> None:
    """Give each mutant of the file its walk, which is left out where it is the first."""
    source = file.read_text()
    lines = source.encode().splitlines(keepends=True)
    (mutants,) = (
        each.value
        for each in ast.parse(source).body
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "MUTANTS"
    )
    assert isinstance(mutants, ast.List)

    def at(line: int | None, column: int | None) -> int:
        assert line is not None
        assert column is not None
        return sum(map(len, lines[: line - 1])) + column

    written = source.encode()
    for call, walk in reversed(list(zip(mutants.elts, walks, strict=True))):
        assert isinstance(call, ast.Call)
        last = call.args[-1]
        begin, end = at(last.end_lineno, last.end_col_offset), at(call.end_lineno, call.end_col_offset) - 1
        if walk != next((ast.literal_eval(each.value) for each in call.keywords), 0):
            written = written[:begin] + (f", walk={walk}".encode() if walk else b"") + written[end:]
    file.write_bytes(written)


def main() -> None:
    binary = server_binary("valkey")
    assert binary
    for tests, make in ((test_paths_mutants, make_paths_pair), (test_script_mutants, make_pair)):
        with running_server(binary) as client:
            for peek in (PEEK, PEEK_PATHS):
                client.script_load(peek.source.decode())
            walks = [quickest(tests, client, make, mutant) for mutant in tests.MUTANTS]
        assert tests.__file__
        write(Path(tests.__file__), walks)


if __name__ == "__main__":
    main()
