"""Shards that don't decide, and deciding without them.

``outage``  keys that are cut off, the policy's decisions for them, and what waits until a shard is back
``shards``  a circuit breaker for each shard
``probe``   a decision that counts nothing, to learn whether a shard decides
"""
