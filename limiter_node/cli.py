"""The command line ``limiter-node``: its commands; every failure becomes one line on stderr and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration. The commands themselves are in `limiter_node.commands`,
one module per group.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

import click
import cloup

from limiter_node.commands.accounts import accounts
from limiter_node.commands.apply import apply
from limiter_node.commands.environment import named_by_variable
from limiter_node.commands.help import CONTEXT_SETTINGS, EXAMPLES
from limiter_node.commands.keys.group import keys
from limiter_node.commands.limits import limits
from limiter_node.commands.serve import serve
from limiter_node.commands.store import store
from limiter_node.commands.teams import teams
from limiter_node.commands.top import top
from limiter_node.commands.up import up
from limiter_node.errors import ConfigError, LimiterError


class _Commands(cloup.Group):
    def invoke(self, ctx: click.Context) -> object:
        with named_by_variable(ctx):
            return super().invoke(ctx)


@cloup.group(
    cls=_Commands,
    context_settings=CONTEXT_SETTINGS,
    sections=[
        cloup.Section("Run", [up, serve, store]),
        cloup.Section("Manage", [apply, keys, accounts, teams, limits]),
        cloup.Section("Watch", [top]),
    ],
    epilog=EXAMPLES[""],
)
@click.version_option(version("llm-rate-limiter"), prog_name="limiter-node", message="%(prog)s %(version)s")
def cli() -> None:
    """Exact, distributed rate limiter for LLM APIs.

    Every option can also come from the environment: --input-tpm from LIMITER_INPUT_TPM, and so on.

    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A failure is one line on stderr, never a traceback."""
    try:
        code = cli.main(args=arguments, prog_name="limiter-node", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "limiter-node"
        return _fail(f"{error.format_message()} (see {command} --help)", 2)
    except click.ClickException as error:
        return _fail(error.format_message(), 1)
    except ConfigError as error:
        return _fail(str(error), 2)
    except LimiterError as error:
        return _fail(str(error), 1)
    except (click.Abort, KeyboardInterrupt, asyncio.CancelledError):
        return _fail("interrupted", 1)
    except BrokenPipeError:
        # The reader has gone (`keys list | head`). The interpreter must not report that once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("LIMITER_DEBUG"):
            raise
        return _fail(f"unexpected {type(error).__name__}: {error} (set LIMITER_DEBUG=1 to see where)", 1)


def _fail(message: str, code: int) -> int:
    # One line, whatever a library's message looks like.
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return code


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    sys.exit(run())
