"""From a request to its verdict, by batches of one key each, and all that has to be set right afterwards.

``dispatcher``       the way in, and the parts put together
``queues``           the queues of the keys that the node has met, and of those that may be invented
``schedule``         keys whose next batch leaves in this turn
``replies``          the end of a batch: verdicts for those who wait
``receipts``         the hold of an admission, given back when its request ends
``linger``           settles that wait for a batch to ride along with
``deadlines``        how many requests may wait, and for how long
``sweeper``          the timer of all deadlines
``reconciliation``   what was admitted without the store, counted there exactly once
``losses``           counts that the store has lost, charged again
``redeclare``        keys that the store has lost, declared again
``key_exists``       whether a key exists, asked before its request's body is read
``limits_while_moving``   limits of keys that can't be decided while their slot moves
``reading``          usage, signs of life
``first``            the first decision of each shard, at the node's start
"""
