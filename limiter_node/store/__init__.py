"""Everything that speaks to the shared store; the only importer of redis.

What the store is and what is stored there:

``url``              the ``--store`` URL: addresses, login, TLS
``errors``           redis-py's errors as ours
``keyspace``         names, slots, the number of the storage format
``slots``            who owns a cluster's slots, in the servers' words
``scripts``          the Lua sources
``values``           the packed values that are stored
``codec``            batches and their replies, packed

What a node has of each key:

``charges``          usage that was admitted without the store and has to be counted there
``knowledge``        what the node knows of a key
``batch``            a key's queue, and the batches that leave it
``pending``          the requests that wait for a verdict
``unsent_charges``   the charges that wait in the queues

The rooms, in the order of a decision's way:

``decisions``        from a request to its verdict, and all that has to be set right afterwards
``outage``           shards that don't decide, and deciding without them
``wire``             connections, and calls on their way to the shard that owns their slot
``fleet``            how many nodes there are, and their storage format

Beside that way:

``admin``            keys and stores, for commands, the node's start and ``limiter-node top``
``embedded``         servers of our own
"""
