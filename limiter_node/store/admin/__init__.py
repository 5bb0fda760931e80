"""Keys and stores, for commands, the node's start and ``limiter-node top``; nothing here is on the path of a decision.

``store_admin``   puts, reads, lists and deletes keys; checks the store
``server_check``  checks whether a server can be trusted with counters
``preparation``   prepares the store for a node that starts
``masters``       the client of each master, found by slot
``watch``         reads a working store's figures
``hottest``       finds the keys nearest to their limits
"""
