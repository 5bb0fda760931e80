"""New keys, and files with them that only their owner can read."""

from __future__ import annotations

import json
import os
import re
import secrets
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limiter_node.errors import ConfigError, LimiterError
from limiter_node.keysfile.accounts import NAME_RULE, read_accounts
from limiter_node.keysfile.fields import LIMIT_RANGES, check_limit, is_path_name, is_team_name
from limiter_node.limits import KeyLimits
from limiter_node.plans import per_text, teams_of
from limiter_node.policy import ENFORCE, UNITS, Limit, PolicyWindow

MAX_GENERATED = 1_000_000
_KEY_NAME = re.compile(r"key-[0-9]{4,}\Z")


@dataclass(frozen=True, slots=True)
class GeneratedAccount:
    """Describe an account to generate, and which of the keys are in it."""

    name: str
    keys: int
    """How many keys are in it: the last ones of the file."""
    teams: tuple[str, ...] = ()
    """The teams that its keys take turns in, such as ``research/vision``; the teams above them are declared, too."""
    windows: tuple[PolicyWindow, ...] = ()
    """With the limits of the account."""
    team_windows: tuple[PolicyWindow, ...] = ()
    """With the limits of each of ``teams``."""


def generate_keys(count: int, limits: KeyLimits, account: GeneratedAccount | None = None) -> str:
    """Return the text of a keys file with `count` random keys named key-0001 and on, all with the same limits."""
    if not 1 <= count <= MAX_GENERATED:
        raise ConfigError(f"--count must be from 1 to {MAX_GENERATED}")
    amounts = {field: check_limit(field, getattr(limits, field)) for field in LIMIT_RANGES}
    lines = ["[defaults]", *(f"{field} = {amount}" for field, amount in amounts.items())]
    if account is not None:
        _check_account(account, count)
        lines += _account_lines(account, amounts)
    flat = count - account.keys if account is not None else count
    for number in range(1, count + 1):
        # 24 random bytes: as hard to guess as a 192-bit secret, and every character stands in a URL or header as it is.
        lines += ["", f"[keys.{json.dumps(new_key())}]", f'name = "key-{number:04}"']
        if account is not None and number > flat:
            lines.append(f'account = "{account.name}"')
            if account.teams:
                lines.append(f'team = "{account.teams[(number - flat - 1) % len(account.teams)]}"')
    return "\n".join(lines) + "\n"


def _check_account(account: GeneratedAccount, count: int) -> None:
    if not is_path_name(account.name):
        raise ConfigError(f"--account: the name of an account is {NAME_RULE}")
    if not all(is_team_name(team) for team in account.teams):
        raise ConfigError(f"--team: a team is up to four names with a / between, each {NAME_RULE}")
    if any(_KEY_NAME.match(name) for name in (account.name, *account.teams)):
        raise ConfigError("the names of --account and --team must differ from those of the keys, key-0001 and on")
    if not 1 <= account.keys <= count:
        raise ConfigError(f"--account-keys must be from 1 to the {count:,} of --count")


def _account_lines(account: GeneratedAccount, amounts: dict[str, int]) -> list[str]:
    defaults = ", ".join(f"{field} = {amount}" for field, amount in amounts.items() if field != "output_reserve")
    lines = [
        "",
        f"[accounts.{json.dumps(account.name)}]",
        f"key_defaults = {{ {defaults} }}",
        *_limit_lines(account.windows),
    ]
    for team in dict.fromkeys(name for each in account.teams for name in teams_of(each)):
        lines += ["", f"[accounts.{json.dumps(account.name)}.teams.{json.dumps(team)}]"]
        if team in account.teams:
            lines += _limit_lines(account.team_windows)
    read_accounts(tomllib.loads("\n".join(lines))["accounts"], None)  # refuses what no node could read
    return lines


def _limit_lines(windows: Iterable[PolicyWindow]) -> list[str]:
    entries = [f"  {_entry(window, limit)}," for window in windows for limit in window.limits]
    return ["limits = [", *entries, "]"] if entries else []


def _entry(window: PolicyWindow, limit: Limit) -> str:
    fields: dict[str, Any] = {UNITS[limit.unit]: limit.amount, "per": per_text(window.per_ms)}
    if window.models:
        fields["models"] = list(window.models)
    if limit.name:
        fields["name"] = limit.name
    if limit.mode != ENFORCE:
        fields["mode"] = limit.mode
    # JSON's texts, lists and integers are TOML's, too, if no character is written as a pair of surrogates.
    texts = (f"{field} = {json.dumps(value, ensure_ascii=False)}" for field, value in fields.items())
    return f"{{ {', '.join(texts)} }}"


def new_key(prefix: str = "sk-") -> str:
    """Return a random API key."""
    return prefix + secrets.token_urlsafe(24)


def write_private(path: str | Path, text: str, *, overwrite: bool = False) -> None:
    """Write a file that only its owner can read, whole or not at all.

    Raises ConfigError if it exists and `overwrite` is not set, LimiterError if it cannot be written.
    """
    target = Path(path)
    # To overwrite is to replace: the new file is private even if the old one wasn't.
    written = target.with_name(f".{target.name}.{secrets.token_hex(8)}") if overwrite else target
    try:
        descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            if overwrite:
                written.replace(target)
        except BaseException:
            written.unlink(missing_ok=True)
            raise
    except FileExistsError:
        raise ConfigError(f"{path} exists: choose another --out, or overwrite it with --force") from None
    except OSError as error:
        raise LimiterError(f"{path}: {error.strerror or 'cannot be written'}") from None
