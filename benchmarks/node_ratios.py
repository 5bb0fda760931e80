"""The rate of one node on one core, beside the node without a limiter, a minimal handler, and nginx as a limiter.

Every server is saturated in turn by the same short prompts, all of them admitted, answered and settled; the one under
load has core 0, its store and the load have the others. Ratios are those of a round, so that the machine's drift
cancels out. The peers:

- the same node with its decisions stubbed (`admit_all_node`);
- an aiohttp server that parses the JSON and gives a constant answer of the same size (`minimal_handler`);
- nginx with Lua on the same single store, one unbatched script call per request (`nginx_peer` says what it leaves out):
  without settling, and with a second call that settles, as a node does.

A server that doesn't use its whole core was not the limit: the machine's other cores were. The
servers' CPU per request shows the ratio without that limit.

    python -m benchmarks.node_ratios [--rounds N] [--seconds S] [--nginx PATH] [--json FILE]
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.lib.loads import Load, saturate, write_short_requests
from benchmarks.lib.measuring import Row, interleaved, parser, ratios, row, show
from benchmarks.lib.servers import KEY_COUNT, Server, running_node, unlimited_keys
from benchmarks.peers.admit_all_node import running_admit_all_node
from benchmarks.peers.minimal_handler import running_minimal_handler
from benchmarks.peers.nginx_peer import lua_modules, running_nginx

NODE, NODE_ONE_KEY = f"node, {KEY_COUNT:,} keys", "node, one key"
STUB, STUB_ONE_KEY = f"node with decisions stubbed, {KEY_COUNT:,} keys", "node with decisions stubbed, one key"
HANDLER = "minimal aiohttp handler"
NODE_SINGLE = "node on a single store"
PATIENT = "--decision-timeout-ms=20000"
"""A moment in which the machine does something else must not make a node decide alone, which costs less."""
NGINX, NGINX_SETTLES = "nginx + Lua, which only admits", "nginx + Lua, which settles, too"


class Variant(NamedTuple):
    """Hold a server and the requests that it gets."""

    server: Server
    requests: Path


def measure(rounds: int, seconds: float, nginx: str) -> list[Row]:
    """Return all rows of this benchmark; those of nginx only if it is installed."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keys = directory / "keys.toml"
        names = unlimited_keys(keys)
        many = write_short_requests(directory / "many", names)
        one = write_short_requests(directory / "one", names[:1])

        node = stack.enter_context(running_node(keys, PATIENT))
        stub = stack.enter_context(running_admit_all_node())
        answer_bytes = round(saturate(node, many, min(1.0, seconds)).answer_bytes)
        handler = stack.enter_context(running_minimal_handler(answer_bytes))
        variants = {
            NODE: Variant(node, many),
            NODE_ONE_KEY: Variant(node, one),
            STUB: Variant(stub, many),
            STUB_ONE_KEY: Variant(stub, one),
            HANDLER: Variant(handler, many),
        }
        if modules := lua_modules(nginx):
            single = stack.enter_context(running_node(keys, PATIENT, "--store=single"))
            admits, settles = stack.enter_context(running_nginx(nginx, modules, single, answer_bytes))
            variants[NODE_SINGLE] = Variant(single, many)
            variants[NGINX], variants[NGINX_SETTLES] = Variant(admits, many), Variant(settles, many)
        else:
            print("node ÷ nginx is left out: install nginx and libnginx-mod-http-lua (and lua-cjson), or give --nginx")

        loads = interleaved(rounds, [partial(saturate, *variant, seconds) for variant in variants.values()])
    return rows_of(dict(zip(variants, loads, strict=True)))


def rows_of(loads: dict[str, list[Load]]) -> list[Row]:
    """Return the ratios first, then what each variant did."""
    per_second = {name: [load.per_second for load in each] for name, each in loads.items()}
    cpu_us = {name: [load.server_us for load in each] for name, each in loads.items()}
    compared = [
        (NODE, STUB, 0.93),
        (NODE_ONE_KEY, STUB_ONE_KEY, 0.93),
        (NODE, HANDLER, 0.65),
        (NODE_SINGLE, NGINX, 0.8),
        (NODE_SINGLE, NGINX_SETTLES, 0.8),
    ]
    rows = []
    for over, under, aim in compared:
        if under in loads:
            rows += [
                row(f"{over} ÷ {under}", "ratio", ratios(per_second[over], per_second[under]), at_least=aim),
                row("… by the servers' CPU per request", "ratio", ratios(cpu_us[under], cpu_us[over])),
            ]
    for name, each in loads.items():
        rows += [
            row(f"{name}: requests/s", "1/s", per_second[name], at_least=8_000 if name == NODE else None),
            row("… CPU of the server per request", "µs", cpu_us[name]),
            row("… share of its core in use", "", [load.busy for load in each]),
            row("… bytes per answer", "", [load.answer_bytes for load in each]),
        ]
        if any(load.store_us for load in each):
            rows.append(row("… CPU of the store per request", "µs", [load.store_us for load in each]))
    return rows


def main() -> None:
    """Measure with the options given, and print the rows."""
    options_of = parser(__doc__, rounds=5, seconds=3)
    options_of.add_argument("--nginx", metavar="PATH", default="nginx", help="the nginx to run (%(default)s)")
    options = options_of.parse_args()
    rows = measure(options.rounds, options.seconds, options.nginx)
    show("A node on one core, and its peers", rows, json_path=options.json)


if __name__ == "__main__":
    main()
