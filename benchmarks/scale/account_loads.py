"""Accounts on running fleets: their keys file, and the loads on them that saturate 1, 2 and 4 nodes on one shard.

One account is the point: its batches leave each node one at a time, and one shard core decides them all. Plain keys and
many small accounts are measured beside it, on the same fleet.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.paths.measured_account import SHAPES, TEAMS
from benchmarks.scale.fleet_loads import Loads, Refused
from benchmarks.scale.scaling_sample import Sample
from benchmarks.scale.sharded_fleet import running
from limiter_node.keysfile.making import write_private
from limiter_node.limits import MAX_LIMIT
from limiter_node.plans import per_text
from limiter_node.policy import MAX_AMOUNT, PolicyWindow

NODES = (1, 2, 4)
OFFERED = (0.5, 0.8, 0.95)
"""The parts of the saturated rate at which latency is measured."""
_MODELS = "gpt-4*"
"""Matches the model of the loads' requests."""


class Setting(NamedTuple):
    """Say over what a load goes: so many accounts, their keys, and the windows on each key's path; 0: plain keys."""

    path: int
    accounts: int
    keys: int

    @property
    def text(self) -> str:
        """The setting in words."""
        if not self.path:
            return f"{self.keys:,} plain keys"
        accounts = "one account" if self.accounts == 1 else f"{self.accounts} accounts"
        return f"path of {self.path}, {accounts} of {self.keys:,} keys"

    @property
    def names(self) -> list[str]:
        """The API keys."""
        return [
            f"sk-{self.path}-{self.accounts}-{self.keys}-{account}-{key}"
            for account in range(self.accounts)
            for key in range(self.keys)
        ]


SATURATED = (
    Setting(0, 1, 200),
    Setting(2, 1, 200),
    Setting(5, 1, 200),
    Setting(8, 1, 200),
    Setting(5, 1, 10),
    Setting(5, 20, 10),
)
IN_FLIGHT = 32
"""Requests of a load that saturates: on each node more than a batch holds, and answered soon by a slow machine, too."""
ONE_ACCOUNT = Setting(5, 1, 200)
"""The account whose latency is measured, too."""


@dataclass(frozen=True, slots=True)
class AccountSample:
    """Hold what one load on accounts showed. `offered`: the part of the saturated rate; None for a closed loop."""

    round: int
    path: int
    accounts: int
    keys: int
    offered: float | None
    sample: Sample


def setting_of(sample: AccountSample) -> Setting:
    """Return the setting of a load."""
    return Setting(sample.path, sample.accounts, sample.keys)


def write_accounts(path: Path, settings: Iterable[Setting]) -> None:
    """Write a keys file with the keys of all settings. Their limits are out of reach."""
    lines = ["[defaults]", *(f"{limit} = {MAX_LIMIT}" for limit in ("rpm", "input_tpm", "output_tpm"))]
    for setting in settings:
        if not setting.path:
            lines += [f'[keys."{name}"]' for name in setting.names]
            continue
        shape, names = SHAPES[setting.path], iter(setting.names)
        for number in range(setting.accounts):
            account = f"a{setting.path}-{setting.accounts}-{setting.keys}-{number}"
            lines += [f"[accounts.{account}]", _limits(shape.account)]
            for team in range(TEAMS if shape.team else 0):
                lines += [f'[accounts.{account}.teams."t{team}"]', _limits(shape.team)]
                if shape.sub_team:
                    lines += [f'[accounts.{account}.teams."t{team}/sub"]', _limits(shape.sub_team)]
            for key in range(setting.keys):
                lines += [f'[keys."{next(names)}"]', f'name = "k{key}"', f'account = "{account}"', _limits(shape.key)]
                if shape.team:
                    lines.append(f'team = "t{key % TEAMS}{"/sub" if shape.sub_team else ""}"')
    write_private(path, "\n".join(lines), overwrite=True)


def _limits(windows: Iterable[PolicyWindow]) -> str:
    """Return a list of limits: on each window one of requests and one of input tokens."""
    entries = []
    for window in windows:
        models = f', models = ["{_MODELS}"]' if window.models else ""
        laid = f'{MAX_AMOUNT}, per = "{per_text(window.per_ms)}"{models}'
        entries += [f"{{ {unit} = {laid} }}" for unit in ("requests", "input_tokens")]
    return f"limits = [{', '.join(entries)}]"


def measure(rounds: int, seconds: float) -> list[AccountSample]:
    """Measure every load on fleets of 1, 2 and 4 nodes, round by round, so that the machine's drift hits all alike."""
    samples = []
    with tempfile.TemporaryDirectory() as directory:
        keys = Path(directory) / "keys.toml"
        write_accounts(keys, SATURATED)
        for number in range(rounds):
            for nodes in NODES:
                print(f"round {number + 1}: {nodes} nodes", file=sys.stderr)
                with running(nodes, 1, keys) as fleet:
                    samples += _on(Loads(fleet, 1, Path(directory), ONE_ACCOUNT.names, seconds, 0.0), number)
    return samples


def _on(loads: Loads, number: int) -> list[AccountSample]:
    samples: list[AccountSample] = []
    for setting in SATURATED:
        try:
            loads.meet(setting.names)
            sample = loads.saturated(setting.text, setting.names, IN_FLIGHT)
            samples.append(AccountSample(number, *setting, None, sample))
            for part in OFFERED if setting == ONE_ACCOUNT else ():
                at_rate = loads.at_rate(setting.text, part * sample.requests_per_s)
                samples.append(AccountSample(number, *setting, part, at_rate))
        except Refused as refused:
            print(f"{setting.text}: {refused}; left out of this round", file=sys.stderr)
    return samples
