"""redis-py's errors, translated once into ours; each message says what to do.

StoreMisconfigured for what a person has to correct (login, certificate, kind of store), StoreUnavailable for what may
pass. Messages name the store without its password.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions

from limiter_node.errors import LimiterError, StoreMisconfigured, StoreUnavailable
from limiter_node.store.url import StoreAddress


@contextmanager
def translated(address: StoreAddress) -> Iterator[None]:
    """Raise our errors instead of redis-py's and the system's."""
    try:
        yield
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError, TimeoutError) as error:
        raise translate(error, address) from error


def translate(error: BaseException, address: StoreAddress) -> LimiterError:
    """Return our error for `error`, which redis-py or the system raised."""
    where, text = address.describe(), " ".join(str(error).split())
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return StoreMisconfigured(
            f"the certificate of {where} is not trusted: give ssl_ca_certs=FILE in --store ({text})"
        )
    if isinstance(error, exceptions.AuthenticationError):
        return StoreMisconfigured(f"{where} refuses the login: check user and password in --store")
    if isinstance(error, exceptions.NoPermissionError):
        return StoreMisconfigured(f"{where} does not permit this: the user in --store needs more rights ({text})")
    if isinstance(error, exceptions.MovedError | exceptions.ReadOnlyError) and address.cluster:
        return StoreUnavailable(f"{where}: slots of its cluster are changing hands ({text})")
    if isinstance(error, exceptions.MovedError):
        return StoreMisconfigured(f"{where} is part of a cluster: use redis+cluster:// in --store")
    if isinstance(error, exceptions.ReadOnlyError):
        return StoreMisconfigured(f"{where} is a read-only replica: give its primary in --store")
    if isinstance(error, exceptions.OutOfMemoryError):
        return StoreUnavailable(f"{where} is out of memory: raise its maxmemory or delete keys that are not used")
    if isinstance(error, exceptions.ClusterDownError):
        return StoreUnavailable(f"{where} reports that its cluster is down: look at CLUSTER INFO there")
    if "cluster support disabled" in text:
        return StoreMisconfigured(f"{where} is not a cluster: use redis:// in --store")
    if "DB index is out of range" in text:
        return StoreMisconfigured(f"{where} has no database {address.db}: correct it in --store")
    if isinstance(error, exceptions.ResponseError):
        return StoreUnavailable(f"{where} replied with an error: {text}")
    hint = "does it speak TLS, and is it reachable" if address.tls else "is it running and reachable"
    return StoreUnavailable(f"cannot reach the store at {where}: {hint}? ({text or type(error).__name__})")
