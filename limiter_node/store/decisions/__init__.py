"""From a request to its verdict, by batches of one key or account each, and the corrections afterwards.

``dispatcher``           the way in, and the parts put together
``queues``               the queues of the keys that the node has met, and of keys that may not exist
``schedule``             keys whose next batch leaves in this turn
``batch_sender``         makes batches and sends them
``batch_ends``           the end of a batch, whatever its kind
``replies``              the replies about plain keys: verdicts for the requests that wait
``path_replies``         the replies about accounts
``moved_keys``           keys that are not where the node looked for them
``following``            keys that have moved to another account, by the marks that they leave
``forwarding``           settles and charges sent after keys that have moved
``receipts``             the hold of an admission, given back when its request ends
``linger``               settles that wait to join their key's next batch
``draining``             waits until everything has been decided, when the node stops
``deadlines``            bounds how many requests wait, and for how long
``sweeper``              the timer of all deadlines
``reconciliation``       admissions made without the store, counted there exactly once
``losses``               counts that the store has lost, charged again
``declared_file``        what the keys file declares now, and whether that is later than the store's word
``redeclare``            plain keys that the store has lost, declared again
``redeclare_accounts``   accounts and their keys that the store has lost, declared again
``key_pointers``         the pointers from credentials to keys of accounts, checked and mended
``limits_while_moving``  limits of keys that can't be decided while their slot moves
``key_exists``           whether a key exists, asked before its request's body is read
``reading``              usage, and whether the shards decide
``first``                the first decision of each shard, at the node's start
"""
