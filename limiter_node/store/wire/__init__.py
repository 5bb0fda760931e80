"""Connections, and calls on their way to the shard that owns their slot.

``routing_and_retries``  a script call, and the router: to which shard, when to repeat, when to give up
``script_target``        the part of a script call that is the same each time
``topology``             the owners of slots, and a connection for each master
``discovery``            asks a cluster's servers for the owners of slots
``store_connection``     one connection to one server
``commands``             the commands that a connection sends
``acknowledged``         replies that count only when replicas have the writes
"""
