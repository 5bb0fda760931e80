"""Connections, and calls on their way to the shard that owns their slot.

``routing_and_retries``   a script call, and the router: which shard, when again, when no more
``script_target``      the part of a script call that is the same each time
``topology``           who owns which slot; a connection for each master
``discovery``          asking a cluster's servers who owns what
``store_connection``   one connection to one server
``commands``           what a connection sends
``acknowledged``       replies that count only when replicas have the writes
"""
