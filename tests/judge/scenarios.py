"""What a run may consist of; everything else about it is drawn from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from . import account_faults, faults, fleet_faults
from .faults import Fault
from .records import EXACT_CLOCK, STEPPED_BACK, STEPPED_FORWARD
from .store import FAKETIME

NETWORK: tuple[Fault, ...] = (
    faults.reset,
    faults.lose_requests,
    faults.lose_replies,
    faults.delay,
    faults.trickle,
    faults.garbage,
    faults.short_lies,
)
SERVER: tuple[Fault, ...] = (faults.freeze, faults.flush_scripts, faults.kill_clients, faults.out_of_memory)
DATA: tuple[Fault, ...] = (faults.lose_window, faults.lose_limits, faults.lose_everything, faults.roll_back)
KEYS: tuple[Fault, ...] = (faults.delete_key, faults.change_limits)
FLEET: tuple[Fault, ...] = (fleet_faults.death, fleet_faults.miscount)
ACCOUNTS: tuple[Fault, ...] = (account_faults.change_policy, account_faults.change_policy, account_faults.take_key_out)


@dataclass(frozen=True)
class Scenario:
    """Hold what is drawn from: `faults`, of which `together` may be on at a time. `weight`: how often it is drawn."""

    name: str
    faults: tuple[Fault, ...]
    store: str = "single"
    together: int = 1
    weight: int = 2
    steps_clock: bool = False
    always_accounts: bool = False
    keeps_data: bool = True
    """Whether nothing is lost, so that each operation is found counted once without any tolerance."""


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("calm", (), weight=1),
        Scenario("network", NETWORK, together=2),
        Scenario("lies", (faults.lies,), weight=1),
        Scenario("freeze", (faults.freeze,)),
        Scenario("server", SERVER, together=2),
        Scenario("loss", (faults.lose_window, faults.lose_limits, faults.lose_everything), keeps_data=False),
        Scenario("rollback", (faults.roll_back,), keeps_data=False),
        Scenario("keys", KEYS, together=2),
        Scenario("accounts", ACCOUNTS, together=2, always_accounts=True),
        Scenario("death", (fleet_faults.death, faults.freeze, faults.lose_requests), weight=1),
        Scenario("fleet", (fleet_faults.miscount, faults.freeze, faults.lose_requests), together=2),
        Scenario("stalls", (fleet_faults.stand_still, faults.freeze, faults.lose_replies), together=2),
        Scenario("clock", (faults.step_clock,), weight=1, steps_clock=True),
        Scenario(
            "moves",
            (faults.move_slot, faults.move_slot, faults.kill_clients, faults.flush_scripts),
            "cluster",
            weight=1,
        ),
        Scenario("cluster", (faults.move_slot, *SERVER, *DATA, *KEYS, *ACCOUNTS), "cluster", 2, 1, keeps_data=False),
        Scenario(
            "mixed",
            (*NETWORK, *SERVER, *DATA, *KEYS, *ACCOUNTS, *FLEET),
            together=3,
            weight=4,
            keeps_data=False,
        ),
    )
}


@dataclass(frozen=True)
class Plan:
    """What a seed makes of a run, but for its keys, its traffic and its faults."""

    scenario: Scenario
    seed: int
    nodes: int
    window_buckets: int
    timeout_ms: int
    policy: str
    declares: bool
    keys: int
    seconds: float
    rounds: int
    """All is healed, drained and counted after each of them."""
    clock: str
    accounts: int
    """Accounts beside the plain keys."""


def draw_plan(seed: int, only: str | None = None, binary: str | None = None) -> Plan:
    """Draw a run. `binary`: the store's program, None for the one that is carried along."""
    rng = random.Random(f"plan {seed}")
    # libfaketime doesn't get along with Debian's jemalloc, which its redis-server uses.
    can_step = FAKETIME is not None and binary is None
    possible = [scenario for scenario in SCENARIOS.values() if can_step or not scenario.steps_clock]
    [drawn] = rng.choices(possible, [scenario.weight for scenario in possible])
    scenario = SCENARIOS[only] if only else drawn
    clock = rng.choice((STEPPED_BACK, STEPPED_FORWARD)) if scenario.steps_clock else EXACT_CLOCK
    return Plan(
        scenario=scenario,
        seed=seed,
        nodes=rng.choice((1, 1, 2, 2, 3, 4)),
        window_buckets=rng.choice((10, 20, 20, 20, 30)),
        timeout_ms=rng.choice((60, 100, 100, 200)),
        policy=rng.choice(("local",) * 7 + ("closed", "closed", "open")),
        declares=rng.random() < 0.7,
        keys=rng.choice((2, 3, 5)),
        seconds=rng.uniform(1.5, 5.0),
        rounds=rng.choice((1, 2, 3)),
        clock=clock,
        accounts=rng.choice((1, 1, 2) if scenario.always_accounts else (0, 1, 1, 2)),
    )
