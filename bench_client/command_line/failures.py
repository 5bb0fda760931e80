"""The end of a command: any failure is one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from bench_client.errors import BenchError, BenchUsageError


class CommandFailed(Exception):
    """Raised when a command has printed why it failed, so that only the exit code (1) is left."""


def exit_code_of(group: click.Group, arguments: Sequence[str], program: str) -> int:
    """Run one command of `group` and return its exit code: 0 done, 1 failed, 2 wrong usage.

    With BENCH_DEBUG in the environment, an unforeseen error is raised.
    """
    try:
        code = group.main(list(arguments), prog_name=program, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else program
        return _fail(f"{error.format_message()} (see {command} --help)", 2)
    except click.ClickException as error:
        return _fail(error.format_message(), 1)
    except BenchUsageError as error:
        return _fail(str(error), 2)
    except BenchError as error:
        return _fail(str(error), 1)
    except CommandFailed:
        return 1
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 1)
    except BrokenPipeError:
        # The reader has gone (`bench-client audit DIR | head`). The interpreter must not report that once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("BENCH_DEBUG"):
            raise
        return _fail(f"unexpected {type(error).__name__}: {error} (set BENCH_DEBUG=1 to see where)", 1)
    return code if isinstance(code, int) else 0  # --help and --version return their exit code


def _fail(message: str, code: int) -> int:
    # One line, whatever a library's message looks like.
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return code
