"""The group ``limiter-node keys``, and the order of its commands in ``--help``."""

from __future__ import annotations

import cloup

from limiter_node.commands.apply import load
from limiter_node.commands.help import EXAMPLES
from limiter_node.commands.keys.changing import disable, enable, expire, move, set_
from limiter_node.commands.keys.creating import create
from limiter_node.commands.keys.credentials import revoke, rotate
from limiter_node.commands.keys.deleting import delete
from limiter_node.commands.keys.generating import generate
from limiter_node.commands.keys.showing import list_, show

keys = cloup.Group(
    "keys",
    sections=[
        cloup.Section("Look", [list_, show]),
        cloup.Section("Make", [create, generate, load]),
        cloup.Section("Change", [set_, move, rotate]),
        cloup.Section("Refuse", [disable, enable, expire, revoke, delete]),
    ],
    help="""Make, change and look at keys: who asks, their limits and their secrets.

    WHO is a key's name, such as acme/alice; or its digest, at least the first 8 hex digits; or - to read a secret from
    standard input.""",
    short_help="Make, show and change keys, and their secrets.",
    epilog=EXAMPLES["keys"],
)
"""The group of commands."""
