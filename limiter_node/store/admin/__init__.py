"""Keys and stores, for commands, the node's start and ``limiter-node top``; nothing here is on the path of a decision.

``store_admin``   puts, loads, reads, lists and deletes keys; checks the store
``loading``       declarations into the store: by a file, or by a person's word
``account_loading``  accounts with their teams; ``key_loading``: keys, as ``key_plans`` says, wherever they are now
``key_places``    where keys are, and what is left of those that were deleted or have moved
``adopting``      plain keys that become accounts of their own; ``pruning``: keys that a file no longer has
``policies``        the policies of an account, written over the version that was read
``pointers``      a key's plain limits, or the way to its account
``key_items``     single keys, of whichever form, and changes of them
``adopting``      plain keys made accounts of their own
``search``        finds keys by name, by digest, by account
``key_reader``    limits, usage and the list of keys; ``path_usage``: of a key of an account
``deleting``      a key with its usage; ``moving``: to another account, with what its windows hold
``script_calls``  scripts called one by one or in pipelines
``server_check``  checks whether a server can be trusted with counters
``older_nodes``   finds nodes that can't decide keys of accounts
``preparation``   prepares the store for a node that starts
``masters``       the client of each master, found by slot
``watch``         reads a working store's figures
``hottest``       finds the keys, accounts and teams nearest to their limits
``heat``          compares them; ``plain_heat``, ``limit_heat``: reads them
"""
