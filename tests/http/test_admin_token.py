"""The file with the admin token: what it may hold, that another token counts at once, and who may read it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from limiter_node.errors import ConfigError
from limiter_node.http.admin.token_file import TokenFile

FOLDED = "the file has several lines"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "token", "secret\n")


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("text", ["secret", "secret\n", "secret\r\n"])
def test_a_token_is_one_line(tmp_path: Path, text: str) -> None:
    token = TokenFile(str(written(tmp_path / "token", text)))
    assert token.accepts("Bearer secret")
    assert token.accepts("bearer  secret")


@pytest.mark.parametrize(
    "header", ["", "secret", "Bearer", "Bearer ", "Bearer secre", "Bearer secret2", "Basic secret", "Bearer Secret"]
)
def test_nothing_else_is_accepted(file: Path, header: str) -> None:
    assert not TokenFile(str(file)).accepts(header)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("one\ntwo\n", FOLDED),
        ("\none\n", FOLDED),
        ("one\n\n", FOLDED),
        ("a b\n", "visible ASCII"),
        (" \n", "visible ASCII"),
        ("tökén", "visible ASCII"),
        ("x" * 513, "visible ASCII"),
        ("x" * 100_000, "visible ASCII"),
    ],
)
def test_what_is_no_token_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = written(tmp_path / "token", text)
    with pytest.raises(ConfigError, match=rf"--admin-token-file {path}: .*{problem}"):
        TokenFile(str(path))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match=r"--admin-token-file .*: (No such file|Is a directory)"):
            TokenFile(str(path))


def test_another_token_counts_at_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    token = TokenFile(str(file))
    assert token.accepts("Bearer secret")
    written(file, "SECRET\n")  # as long as before
    assert not token.accepts("Bearer secret")
    assert token.accepts("Bearer SECRET")
    assert [record.event for record in caplog.records] == ["admin_token_renewed"]  # type: ignore[attr-defined]
    assert "SECRET" not in caplog.text


def test_while_the_file_cannot_be_used_no_token_is_right(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    token = TokenFile(str(file))
    for text in ("", "a\nb\n"):
        written(file, text)
        for _ in range(3):
            assert not token.accepts("Bearer secret")
    file.unlink()
    assert not token.accepts("Bearer secret")
    written(file, "secret")
    assert token.accepts("Bearer secret")
    events = [record.event for record in caplog.records]  # type: ignore[attr-defined]
    assert events == ["admin_token_unusable"] * 3 + ["admin_token_renewed"]


@pytest.mark.parametrize(
    ("mode", "words"), [(0o644, "read it"), (0o666, "change it"), (0o602, "change it"), (0o640, ""), (0o400, "")]
)
def test_a_file_for_anybody_gets_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, words: str
) -> None:
    token = TokenFile(str(written(tmp_path / "token", "secret", mode)))
    assert token.accepts("Bearer secret")
    assert len(caplog.records) == bool(words), "once"
    assert words in caplog.text
    assert "secret" not in caplog.text
