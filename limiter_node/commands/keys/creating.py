"""``keys create``: a new key, whose secret is made here and shown once."""

from __future__ import annotations

from typing import Any

import cloup

from limiter_node.commands.field_options import fields_from, limit_options, new_key_options
from limiter_node.commands.help import EXAMPLES
from limiter_node.commands.managing import as_json, manage
from limiter_node.commands.options import grouped, option, store_url
from limiter_node.commands.printing import print_made


@cloup.command(short_help="Make a key; prints its secret once.", epilog=EXAMPLES["keys create"])
@cloup.argument("path", help="ACCOUNT/NAME, or NAME for a key without an account")
@limit_options
@new_key_options
@grouped(
    "Store",
    store_url,
    option("--digest", metavar="DIGEST", help="Digest of a secret made elsewhere: sha256: and 64 hex digits."),
    as_json,
)
def create(path: str, store: str, digest: str | None, as_json: bool, **options: Any) -> None:
    """Make a key with a new secret.

    The secret is printed once, alone on standard output; what is said of it goes to standard error. The store holds its
    digest only. A key without an account has the limits 600 requests, 100,000 input tokens and 50,000 output tokens per
    minute unless you give others; a key of an account has those of the account's key_defaults.
    """
    fields = fields_from(options)
    print_made(manage(store, lambda it: it.create_key(path, fields, digest=digest), changes=True), as_json=as_json)
