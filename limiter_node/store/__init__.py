"""Everything that speaks to the shared store; the only importer of redis.

The store, and the values stored there:

``url``             the ``--store`` URL: addresses, login, TLS
``errors``          redis-py's errors, translated into ours
``keyspace``        names, slots, the number of the storage format
``slots``           the owners of a cluster's slots, as its servers report them
``scripts``         the Lua sources
``values``          the packed values that are stored
``written``         the replies to a write over what was read
``codec``           batches and their replies, packed

A node's state of each key:

``charges``         usage that was admitted without the store and still has to be counted there
``knowledge``       what the node knows of a key
``batch``           requests, the queues in which they wait, and the batches that leave these
``key_queue``       the queue of a plain key
``pending``         the requests that wait for a verdict
``unsent_charges``  the charges that wait in the queues

The rooms, in the order in which a decision passes them:

``accounts``        the queues of accounts, whose keys share windows
``decisions``       from a request to its verdict, and the corrections afterwards
``outage``          shards that don't decide, and deciding without them
``wire``            connections, and calls on their way to the shard that owns their slot
``fleet``           the number of live nodes, and their storage format

Off that path:

``admin``           keys and stores, for commands, the node's start and ``limiter-node top``
``embedded``        store servers that the commands start themselves
"""
