"""Nodes with an admin API, for its tests."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from admin_client import TOKEN, AdminClient, admin_client
from node_commands import Command, StartCommand, ask
from ports import free_ports

_names = itertools.count()


def new_name(prefix: str = "acme") -> str:
    """A name that no other test uses."""
    return f"{prefix}-{next(_names)}"


def token_file(directory: Path, token: str = TOKEN, mode: int = 0o600) -> Path:
    """A file with the token; private, unless told otherwise."""
    file = directory / "token"
    file.write_text(f"{token}\n")
    file.chmod(mode)
    return file


@dataclass
class AdminNode:
    """A node with an admin API: the command that runs it, its URL for callers, a client of the API."""

    command: Command
    url: str
    admin: AdminClient

    async def status(self, secret: str) -> int:
        """The status of a chat with a secret."""
        return (await ask(self.url, secret))[0]


@asynccontextmanager
async def admin_node(start: StartCommand, store: str, token: Path, *arguments: object) -> AsyncIterator[AdminNode]:
    """Run a node that is ready."""
    port, admin = free_ports(2)
    ports = ("--port", port, "--admin-port", admin)
    command = await start("serve", "--store", store, *ports, "--admin-token-file", token, *arguments)
    url = (await command.line(r"node \S+ ready (\S+)"))[1]
    async with admin_client(f"http://127.0.0.1:{admin}") as client:
        yield AdminNode(command, url, client)
