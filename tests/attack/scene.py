"""A scene: a real node on a single store, a client that behaves beside it, and one attack after its twin, in rounds.

The client asks through the node in every phase of a round: first beside the twin (the same bytes, sent by the same
process to a server that isn't the node), then beside the attack.
"""

from __future__ import annotations

import socket
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet import running_fleet

from bench_client.servers.procfs import NODE, limiter_processes

from .attacks import Attack
from .bodies import KNOWN, MIB, OTHERS, UNKNOWN, WORST, request
from .processes import Program, Watched, program

OTHERS_PER_S = 100.0
SETTLE_S = 10.0
"""How long a node has to give its memory back; it counts as soon as it is within the bound."""
IDLE_SHARE = 0.1
"""A node that uses less of a core than this has done with what it was sent."""
LEAD_S = 0.3
"""How long before the client an attack begins."""
PATIENCE = ("--upstream-read-timeout", "2")
CONNECTIONS = ("--max-connections", "15000")
"""More than an attack has, so that the client's own are accepted whatever the attacker does."""


@dataclass
class Seen:
    """What came of an attack."""

    normal_p99_ms: list[float] = field(default_factory=list)
    """Of the client, beside the twin; one value a round."""
    normal_max_ms: float = 0.0
    p50_ms: list[float] = field(default_factory=list)
    """Of the client, beside the attack."""
    p99_ms: list[float] = field(default_factory=list)
    max_ms: float = 0.0
    others: int = 0
    """Requests of the client beside attacks that were answered."""
    errors: Counter[str] = field(default_factory=Counter)
    """Requests of the client beside attacks that failed, by how."""
    before_mb: float = 0.0
    peak_mb: float = 0.0
    after_mb: float = 0.0
    shots: int = 0
    """Requests of the attacker."""
    answers: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    oldest_unended_s: float = 0.0
    cpu_s: float = 0.0
    """What the node and its helpers used for attacks: beside the attack more than beside its twin."""

    @property
    def normal_ms(self) -> float:
        return statistics.median(self.normal_p99_ms)

    @property
    def attacked_ms(self) -> float:
        return statistics.median(self.p99_ms)


class Scene:
    """One attack's processes."""

    def __init__(self, node: str, watched: Watched, twin_port: int, others: Program, assailant: Program) -> None:
        self._host, _, port = node.removeprefix("http://").rpartition(":")
        self._port, self._twin_port = int(port), twin_port
        self._watched, self._others, self._assailant = watched, others, assailant

    def play(self, attack: Attack, rounds: int, connections: int, seconds: float, *, twin: bool = True) -> Seen:
        """All rounds; what came of them. Without the twin others' latency says nothing."""
        seen = Seen()
        self._warm_up()
        seen.before_mb = self._watched.memory_mb()
        self._watched.forget_peak()
        for _ in range(rounds):
            self._rest()
            own_s = 0.0
            if twin:
                cpu_s = self._watched.cpu_s()
                others, _ = self._phase(self._twin_port, connections, seconds)
                seen.normal_p99_ms.append(others["p99_ms"])
                seen.normal_max_ms = max(seen.normal_max_ms, others["max_ms"])
                own_s = self._watched.cpu_s() - cpu_s
            cpu_s = self._watched.cpu_s()
            others, met = self._phase(self._port, connections, seconds)
            self._rest()
            seen.cpu_s += max(0.0, self._watched.cpu_s() - cpu_s - own_s)
            self._note(seen, others, met)
        seen.peak_mb = self._watched.peak_mb()
        until = time.monotonic() + SETTLE_S
        while (now_mb := self._watched.memory_mb()) > seen.before_mb + attack.after_mb and time.monotonic() < until:
            time.sleep(0.1)
        seen.after_mb = now_mb
        return seen

    def _rest(self) -> None:
        """Wait until the node has done with what it was sent, for some time."""
        until = time.monotonic() + SETTLE_S
        used_s = self._watched.cpu_s()
        while time.monotonic() < until:
            time.sleep(0.5)
            before_s, used_s = used_s, self._watched.cpu_s()
            if used_s - before_s < 0.5 * IDLE_SHARE:
                return

    def _phase(self, port: int, connections: int, seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
        self._assailant.order(host=self._host, port=port, seconds=seconds + LEAD_S, connections=connections)
        time.sleep(LEAD_S)
        self._others.order(seconds=seconds, per_second=OTHERS_PER_S, model="good")
        return self._others.told(), self._assailant.told()

    def _note(self, seen: Seen, others: dict[str, Any], met: dict[str, Any]) -> None:
        seen.p50_ms.append(others["p50_ms"])
        seen.p99_ms.append(others["p99_ms"])
        seen.max_ms = max(seen.max_ms, others["max_ms"])
        seen.others += others["answers"]
        seen.errors.update(others["errors"])
        seen.shots += met["shots"]
        seen.answers.update(met["answers"])
        seen.longest_s = max(seen.longest_s, met["longest_s"])
        seen.oldest_unended_s = max(seen.oldest_unended_s, met["oldest_unended_s"])

    def _warm_up(self) -> None:
        """Have all parts of the node at work once, its helper process too, so that they aren't the attack's."""
        for body in (WORST["words"]("good", MIB // 4), WORST["random ASCII"]("good", MIB // 4)):
            for key in (KNOWN, UNKNOWN % 0):
                _ask(self._host, self._port, request("/v1/chat/completions", key, body))
        self._others.order(seconds=1.0, per_second=OTHERS_PER_S * 4, model="good")
        self._others.told()


def _ask(host: str, port: int, shot: bytes) -> None:
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(shot)
        while data := connection.recv(65_536):
            if data.endswith((b"}", b"0\r\n\r\n")):
                return


@contextmanager
def scene(attack: Attack, *options: str) -> Iterator[Scene]:
    """Start what an attack needs; `options` are further ones of the node."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keys = directory / "keys.toml"
        limits = "[defaults]\nrpm = 10_000_000\ninput_tpm = 1_000_000_000\noutput_tpm = 1_000_000_000\n"
        keys.write_text(limits + "".join(f'[keys."{key}"]\nname = "name of {key[3:]}"\n' for key in (KNOWN, OTHERS)))
        arguments = ["--store", "single", "--keys", str(keys), "--mock-length", "fixed:5", *CONNECTIONS, *options]
        if attack.gateway:
            good = int(stack.enter_context(program("service", "--benign")).read())
            twin = int(stack.enter_context(program("service", *(["--bomb"] if "bomb" in attack.name else []))).read())
            upstreams = directory / "upstreams.toml"
            upstreams.write_text(
                f'[[upstreams]]\nname = "good"\nmodels = ["good"]\nurl = "http://127.0.0.1:{good}/v1"\n'
                f'[[upstreams]]\nname = "hostile"\nurl = "http://127.0.0.1:{twin}/v1"\n'
            )
            arguments += ["--upstreams", str(upstreams), *PATIENCE]
        else:
            twin = int(stack.enter_context(program("service", "--sink")).read())
        fleet = stack.enter_context(running_fleet(directory, *arguments, nodes=1))
        (node,) = (each for each in limiter_processes(fleet.process.pid) if each.kind == NODE)
        host, _, port = fleet.nodes[0].removeprefix("http://").rpartition(":")
        others = stack.enter_context(program("others", host, port))
        assailant = stack.enter_context(program("assailant", attack.title))
        assert others.read() == assailant.read() == "ready"
        yield Scene(fleet.nodes[0], Watched(node.pid), twin, others, assailant)
