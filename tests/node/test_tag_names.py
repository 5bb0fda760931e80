"""How logs call accounts and keys: by their names and digests, whole names and never a secret."""

from __future__ import annotations

import ast
from pathlib import Path

from limiter_node.policy import account_tag, tag_fields, tag_text

PACKAGE = Path(__file__).parents[2] / "limiter_node"


def test_a_tag_is_called_by_its_owner() -> None:
    long = account_tag("a-name-of-more-than-twelve-characters")
    assert tag_text(long) == "account a-name-of-more-than-twelve-characters"
    assert tag_fields(long) == {"account": "a-name-of-more-than-twelve-characters"}
    assert tag_text("0123456789abcdef" * 2) == "key 0123456789ab"
    assert tag_fields("0123456789abcdef" * 2) == {"key": "0123456789ab"}


def test_no_log_line_is_given_a_secret() -> None:
    """Of what a log line may show, none is called like a secret: a credential, an API key, a token, a header."""
    suspects = {
        "secret",
        "api_key",
        "authorization",
        "bearer",
        "token",
        "password",
        "credential",
        "headers",
        "declared",
    }
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            is_log = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if is_log and isinstance(node.func.value, ast.Name) and node.func.value.id == "log":  # type: ignore[attr-defined]
                names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
                names |= {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
                assert not names & suspects, f"{path}:{node.lineno}"  # type: ignore[attr-defined]
