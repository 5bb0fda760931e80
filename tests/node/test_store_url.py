"""Store URLs: what they mean, what is refused, and that the password never shows."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from limiter_node.errors import ConfigError
from limiter_node.store.url import StoreAddress, TlsOptions, parse_store_url

SECRET = "p%40ss%2Fword"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://store", StoreAddress(False, (("store", 6379),))),
        ("redis://store:7000/3", StoreAddress(False, (("store", 7000),), db=3)),
        ("redis://store?db=3", StoreAddress(False, (("store", 6379),), db=3)),
        ("redis://:pw@store:1", StoreAddress(False, (("store", 1),), None, "pw")),
        ("redis://me:p%40%3A%2F@store", StoreAddress(False, (("store", 6379),), "me", "p@:/")),
        ("redis://me:@store", StoreAddress(False, (("store", 6379),), "me", "")),
        ("redis+cluster://me@a:1", StoreAddress(True, (("a", 1),), "me", "")),
        ("redis://:@store", StoreAddress(False, (("store", 6379),))),
        ("redis://@store", StoreAddress(False, (("store", 6379),))),
        (
            "rediss://me:pw@a?ssl_ca_certs=/me@a.pem",
            StoreAddress(False, (("a", 6379),), "me", "pw", tls=TlsOptions("/me@a.pem")),
        ),
        ("redis://[::1]:7000", StoreAddress(False, (("::1", 7000),))),
        ("redis://[::1]", StoreAddress(False, (("::1", 6379),))),
        ("redis+cluster://a:1,b,[::2]:3", StoreAddress(True, (("a", 1), ("b", 6379), ("::2", 3)))),
        ("redis+cluster://me:pw@a:1,b:2/", StoreAddress(True, (("a", 1), ("b", 2)), "me", "pw")),
        ("rediss://store", StoreAddress(False, (("store", 6379),), tls=TlsOptions())),
        (
            "rediss+cluster://a:1?ssl_ca_certs=/ca.pem&ssl_cert_reqs=none&ssl_check_hostname=false"
            "&ssl_certfile=/c.pem&ssl_keyfile=/k.pem",
            StoreAddress(True, (("a", 1),), tls=TlsOptions("/ca.pem", "none", False, "/c.pem", "/k.pem")),
        ),
    ],
)
def test_a_url_is_understood(url: str, address: StoreAddress) -> None:
    assert parse_store_url(url) == address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "--store must be a URL that begins with one of redis://"),
        ("cluster", "--store must be a URL"),
        ("http://store", "--store must be a URL"),
        ("redis://", "each endpoint needs a host"),
        ("redis://:7000", "each endpoint needs a host"),
        ("redis+cluster://a:1,", "each endpoint needs a host"),
        ("redis://a b:1", "each endpoint needs a host"),
        ("redis://a:b", "the port of a must be a number from 1 to 65535"),
        ("redis://a:0", "the port of a must be"),
        ("redis://a:65536", "the port of a must be"),
        ("redis://a:٣", "the port of a must be"),
        ("redis://::1:7000", "an IPv6 address is written"),
        ("redis://[::1", "an IPv6 address is written"),
        ("redis://[::1]7000", "an IPv6 address is written"),
        ("redis://a:1,b:2", "takes one host:port"),
        ("redis+cluster://a:1,a:1", "the same host:port twice"),
        ("redis://a/x", "the database must be a number"),
        ("redis://a/1?db=2", "the database is given twice"),
        ("redis+cluster://a:1/1", "a cluster has database 0 only"),
        (f"redis://me:{SECRET}:x@a", "write @ as %40"),
        (f"redis://me:{SECRET}#@a", "must be written %23"),
        (f"redis://me:{SECRET}/@a", "write / as %2F and ? as %3F"),
        (f"redis+cluster://me:{SECRET}/x@a:1,b:2", "write / as %2F and ? as %3F"),
        (f"redis://{SECRET}/12@a:1/0", "write / as %2F and ? as %3F"),
        (f"redis://:12{SECRET}?x@a", "write / as %2F and ? as %3F"),
        (f"redis://:1?db={SECRET}&x@a", "write / as %2F and ? as %3F"),
        (f"redis://me:{SECRET}@x@a", "write @ as %40"),
        (f"redis://:{SECRET}@a?{SECRET}=1", "unknown option after the ?; known are db, ssl_ca_certs"),
        ("redis://a?socket_timeout=1", "unknown option socket_timeout after the ?; known are db, ssl_ca_certs"),
        ("redis://a?Hunter2=1", "unknown option after the ?; known are"),
        (f"redis://:{SECRET}@a?{SECRET}", "options are written"),
        ("redis://a?ssl_ca_certs=x", "ssl_ca_certs needs TLS"),
        ("rediss://a?ssl_ca_certs=x&ssl_ca_certs=y", "ssl_ca_certs is given twice"),
        ("rediss://a?ssl_cert_reqs=maybe", "ssl_cert_reqs must be"),
        ("rediss://a?ssl_check_hostname=maybe", "ssl_check_hostname must be"),
        ("rediss://a?ssl_keyfile=x", "ssl_keyfile needs ssl_certfile"),
    ],
)
def test_a_wrong_url_is_refused_in_one_line_without_the_password(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_store_url(url)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "ss%2Fword" not in str(error.value)


def test_the_password_never_shows() -> None:
    address = parse_store_url(f"rediss+cluster://me:{SECRET}@a:1,[::1]:2?ssl_cert_reqs=none")
    assert address.password == "p@ss/word"
    assert "ss" not in repr(address).replace("StoreAddress", "").replace("password", "").replace("ssl", "")
    assert address.describe() == "rediss+cluster://me@a:1,[::1]:2"
    assert parse_store_url("redis://:pw@a/3").describe() == "redis://a:6379/3"
    assert parse_store_url(f"redis://{SECRET}@a").describe() == "redis://a:6379", "the user may be a password"


def test_without_tls_there_is_no_context() -> None:
    assert parse_store_url("redis://a").ssl_context() is None


def test_certificates_are_checked_by_default() -> None:
    context = parse_store_url("rediss://a").ssl_context()
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_tls_options_reach_the_context(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("me").private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")
    url = f"rediss://a?ssl_ca_certs={tmp_path}/ca.pem&ssl_certfile={tmp_path}/me.pem"
    context = parse_store_url(url).ssl_context()
    assert context is not None
    assert len(context.get_ca_certs()) == 1
    loose = parse_store_url("rediss://a?ssl_cert_reqs=none").ssl_context()
    assert loose is not None
    assert (loose.verify_mode, loose.check_hostname) == (ssl.CERT_NONE, False)
    unnamed = parse_store_url("rediss://a?ssl_check_hostname=no").ssl_context()
    assert unnamed is not None
    assert (unnamed.verify_mode, unnamed.check_hostname) == (ssl.CERT_REQUIRED, False)


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
def test_unreadable_files_are_named(option: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--store: {option} /nowhere.pem: No such file or directory"):
        parse_store_url(f"rediss://a?{option}=/nowhere.pem").ssl_context()
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match=rf"--store: {option} .*bad\.pem: "):
        parse_store_url(f"rediss://a?{option}={tmp_path}/bad.pem").ssl_context()
