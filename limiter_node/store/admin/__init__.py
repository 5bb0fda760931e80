"""Keys and stores, for commands, the node's start and ``limiter-node top``; nothing here is on the path of a decision.

``store_admin``      puts, loads, reads, lists and deletes keys; checks the store

What is stored of keys, each part read and written by one module:

``policies``         the policies of an account, written over the version that was read
``pointers``         the way from a credential to its key, and the marks of deleted ones
``plain_keys``       the limits of plain keys, written over those that were read
``adopting``         plain keys made accounts of their own
``moving``           a key moved to another account, with what its windows hold
``deleting``         a key deleted, with its usage

A change of one key, for ``limiter_node.management``:

``search``           finds keys by name, by digest, by account
``key_items``        one key, of whichever form, read and written

Declarations into the store:

``loading``          all that a file declares, at a node's start or by a person's word
``account_loading``  accounts with their teams
``key_places``       where declared keys are, and what is left of those that were deleted or have moved
``key_plans``        the change that a declaration makes of a key; ``key_loading``: the changes made
``pruning``          removes the keys that a file no longer has

Reading:

``key_reader``       limits, usage and the list of keys; ``path_usage``: the usage of a key of an account
``hottest``          finds the keys, accounts and teams nearest to their limits
``heat``             compares them; ``plain_heat``, ``limit_heat``: reads them
``watch``            reads a working store's figures

The store itself:

``masters``          the client of each master, found by slot; ``script_calls``: scripts called there
``preparation``      prepares the store for a node that starts
``server_check``     checks whether a server can be trusted with counters
``older_nodes``      finds nodes that can't decide keys of accounts
"""
