"""Accounts: keys, teams and models whose limits share a slot, so that one call of the script decides them all.

``charges``       receipts, settles and charges that name the windows they belong to
``stored_window`` a window as stored: its sums and its buckets
``costs``         what a batch costs the store at most
``codec``         a batch of an account and its reply, packed; ``peek_codec``: a read of windows
``knowledge``     what the node knows of an account's windows
``batch``         the batches
``queue``         the queue of an account, where its keys take turns
``member``        the place of one key in its account: its policy and plans
``newer_policies``  policies that the node knows by a higher revision than the store tells
``batch_making``  makes the next batch of what waits
``verdicts``      from a reply to decisions
``calls``         reads that count nothing
``accounts``      all accounts of a node: meeting a key, making batches, reading usage
"""
