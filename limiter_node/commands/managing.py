"""Shared by the commands that manage keys, accounts and teams: the store, who is meant, and confirmation."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import click
import cloup

from limiter_node.commands.options import option
from limiter_node.commands.printing import warn
from limiter_node.commands.tables import count
from limiter_node.credentials import key_id
from limiter_node.errors import ConfigError, LimiterError, StoreUnavailable
from limiter_node.keysfile.key_names import check_declared_key
from limiter_node.management.errors import Conflict
from limiter_node.management.manager import Manager
from limiter_node.management.naming import STANDARD_INPUT
from limiter_node.management.views import KeyView, digest_text
from limiter_node.store.admin.store_admin import StoreAdmin, administering
from limiter_node.store.url import parse_store_url

_T = TypeVar("_T")

as_json = option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
confirmed = option(
    "--yes", "is_confirmed", is_flag=True, help="Don't ask for confirmation, as where there is no terminal."
)
who_argument = cloup.argument(
    "who", help="a name, such as acme/alice; at least 8 digits of a digest; or - for a secret on standard input"
)


class NotConfirmed(LimiterError):
    """Raised when a person answers that nothing shall be changed."""


def manage(url: str, action: Callable[[Manager], Awaitable[_T]], *, changes: bool = False) -> _T:
    """Return what `action` returns for the store at `url`. `changes`: refuse beside nodes of another format."""

    async def act(admin: StoreAdmin) -> _T:
        if changes:
            with suppress(StoreUnavailable):  # the shard with the list of nodes; the key's own may answer
                await admin.check_format()
        return await action(Manager(admin))

    return administer(url, act)


def administer(url: str, action: Callable[[StoreAdmin], Awaitable[_T]]) -> _T:
    """Return what `action` returns for the store at `url`, of which it may read more than the manager shows."""

    async def run() -> _T:
        async with administering(parse_store_url(url)) as admin:
            return await action(admin)

    return asyncio.run(run())


def addressed(who: str) -> str:
    """Return `who`, or the digest of the secret on standard input if it is ``-``. Raises ConfigError."""
    if who != STANDARD_INPUT:
        return who
    if sys.stdin.isatty():
        secret = str(click.prompt("Secret", hide_input=True, err=True))
    else:
        secret = sys.stdin.readline().rstrip("\r\n")
    if not secret:
        raise ConfigError('there is no secret on standard input: pipe it in, as in: echo "$KEY" | limiter-node …')
    check_declared_key(secret)
    return digest_text(key_id(secret))


async def warn_of_secret(manager: Manager, who: str) -> None:
    """Warn on stderr if `who` is a secret. Raises NotFound and Ambiguous."""
    if (await manager.find(who)).by_secret:
        warn("the secret stands in your shell's history now, and in ps: give - instead, and pipe the secret in")


async def identified(manager: Manager, who: str) -> KeyView:
    """Return the key that is meant, with a warning on stderr if `who` is a secret. Raises NotFound and Ambiguous."""
    await warn_of_secret(manager, who)
    return await manager.show_key(who)


def check_members(what: str, teams: int, keys: int, *, recursive: bool) -> str:
    """Return what an account or a team has, in words for `confirm`. Raises Conflict if that must not go, too."""
    if not (teams or keys):
        return ""
    members = f"{count(teams, 'team')} and {count(keys, 'key')}"
    if not recursive:
        raise Conflict(f"{what} has {members}: delete them first, or all with --recursive")
    return f" with {members}"


def confirm(what: str, *, is_confirmed: bool) -> None:
    """Say what will be lost and ask on the terminal whether to go on; a script has nobody to ask, and means it.

    Raises NotConfirmed if the person doesn't want it.
    """
    if is_confirmed or not sys.stdin.isatty():
        return
    with _interruptible():
        if not click.confirm(f"{what} Go on?", err=True):
            raise NotConfirmed("nothing was changed")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end what waits for a person: asyncio only cancels the task, which a blocking read doesn't notice."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
