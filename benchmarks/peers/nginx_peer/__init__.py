"""The peer: nginx with Lua that decides by the same script in the same single store, one script call per request.

`peer.lua` says what it does and what it leaves out. It needs nginx with its Lua module as Debian and Ubuntu have them.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis

from benchmarks.lib.servers import Server, pin_apart, stop
from limiter_node.processes import free_ports
from limiter_node.store.scripts import load_script

_HERE = Path(__file__).parent
_START_S = 10


def lua_modules(binary: str) -> Path | None:
    """Return where that nginx has its modules, the one for Lua among them; None if nginx or that module is missing."""
    if shutil.which(binary) is None:
        return None
    built = subprocess.run([binary, "-V"], stderr=subprocess.PIPE, text=True).stderr
    path = re.search(r"--modules-path=(\S+)", built)
    modules = Path(path.group(1)) if path else None
    return modules if modules and (modules / "ngx_http_lua_module.so").exists() else None


@contextmanager
def running_nginx(binary: str, modules: Path, beside: Server, answer_bytes: int) -> Iterator[tuple[Server, Server]]:
    """Run nginx on the single store of the node `beside` it, as two servers: one admits, the other settles, too."""
    script = load_script("decide")
    with Redis(port=beside.store_port) as store:
        store.script_load(script.source.decode())
    admit_port, settle_port = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="nginx-peer-") as directory:
        text = (_HERE / "nginx.conf").read_text()
        for name, value in {
            "DIRECTORY": directory,
            "MODULES": modules,
            "HERE": _HERE,
            "STORE_PORT": beside.store_port,
            "SHA": script.sha.decode(),
            "ANSWER_BYTES": answer_bytes,
            "ADMIT_PORT": admit_port,
            "SETTLE_PORT": settle_port,
        }.items():
            text = text.replace(f"@{name}@", str(value))
        configuration = Path(directory) / "nginx.conf"
        configuration.write_text(text)
        process = subprocess.Popen([binary, "-p", directory, "-c", str(configuration)], text=True)
        try:
            _await_listening(settle_port, process)
            pin_apart(process.pid, ())
            yield (
                Server(admit_port, process.pid, store_pids=beside.store_pids),
                Server(settle_port, process.pid, store_pids=beside.store_pids),
            )
        finally:
            stop(process)


def _await_listening(port: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit("nginx did not start")
