"""How evenly keys load the shards: slots, Zipf weights, and the load of the fullest shard.

Pure functions. A cluster's slot is CRC16 of the hash tag (the `kid`) modulo 16384; shard i of S owns the slots from
16384·i/S up to 16384·(i+1)/S, as the embedded clusters and `redis-cli --cluster create` lay them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from statistics import fmean
from typing import NamedTuple

from limiter_node.store.keyspace import SLOTS, slot_of


def shard_of(kid: str, shards: int) -> int:
    """Return the index of the shard that owns a key's slot."""
    return owner_of(slot_of(kid), shards)


def owner_of(slot: int, shards: int) -> int:
    """Return the index of the shard that owns a slot: the greatest i with ⌊16384·i/S⌋ ≤ slot."""
    return ((slot + 1) * shards - 1) // SLOTS


def zipf_weights(keys: int, skew: float) -> list[float]:
    """Return shares of the load, summing to 1, of keys in order of rank: proportional to 1/rank^skew; 0 is uniform."""
    weights = [rank**-skew for rank in range(1, keys + 1)]
    whole = sum(weights)
    return [weight / whole for weight in weights]


def shard_shares(kids: Sequence[str], weights: Sequence[float], shards: int) -> list[float]:
    """Return exactly what part of the load each shard gets if key i has `weights[i]` of it."""
    shares = [0.0] * shards
    for kid, weight in zip(kids, weights, strict=True):
        shares[shard_of(kid, shards)] += weight
    return shares


class Skew(NamedTuple):
    """Hold the fullest shard's load over the mean shard's, over many random placements of the same keys."""

    mean: float
    p95: float
    """19 of 20 placements are below this."""
    largest: float
    """The share that the hottest key or the largest account has of all load."""


def expected_skew(weights: Sequence[float], shards: int, *, placements: int = 20, seed: int = 1) -> Skew:
    """Place keys, or accounts, of random digests on the shards, `placements` times."""
    draw = Random(seed).getrandbits
    fullest = sorted(
        max(shard_shares([f"{draw(128):032x}" for _ in weights], weights, shards)) * shards for _ in range(placements)
    )
    return Skew(fmean(fullest), fullest[min(placements - 1, round(0.95 * placements))], max(weights))
