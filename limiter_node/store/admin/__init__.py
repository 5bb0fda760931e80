"""Keys and stores, for commands, the node's start and ``limiter-node top``; nothing here is on a decision's way.

``store_admin``    keys put, read, listed, deleted; the store checked
``server_check``   whether a server can be trusted with counters
``preparation``    the store made ready for a node that starts
``masters``        a client for each master, found by slot
``watch``          a store looked at while it works
``hottest``        the keys nearest to their limits
"""
