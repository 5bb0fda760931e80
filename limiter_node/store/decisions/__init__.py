"""From a request to its verdict, by batches of one key each, and the corrections afterwards.

``dispatcher``           the way in, and the parts put together
``queues``               the queues of the keys that the node has met, and of keys that may not exist
``schedule``             keys whose next batch leaves in this turn
``replies``              the end of a batch: verdicts for the requests that wait
``receipts``             the hold of an admission, given back when its request ends
``linger``               settles that wait to join their key's next batch
``deadlines``            bounds how many requests wait, and for how long
``sweeper``              the timer of all deadlines
``reconciliation``       admissions made without the store, counted there exactly once
``losses``               counts that the store has lost, charged again
``redeclare``            keys that the store has lost, declared again
``limits_while_moving``  limits of keys that can't be decided while their slot moves
``key_exists``           whether a key exists, asked before its request's body is read
``reading``              usage, and whether the shards decide
``first``                the first decision of each shard, at the node's start
"""
