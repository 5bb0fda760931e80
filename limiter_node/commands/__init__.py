"""The commands of ``limiter-node``: they read options, print results, and call the rooms below.

``up``       nodes and, unless one is given, a store; ``ports``: which ports they get
``serve``    one node
``store``    an embedded store
``apply``    a keys file made so in the store; ``keys``: keys and their secrets, a room of its own;
             ``accounts``, ``teams``; ``limits``: which limits apply, in words
``managing`` shared by these: the store, who is meant, confirmation; ``printing``: JSON, changes, a new secret
``field_options``  the options for what is set; ``limit_argument``: the grammar of ``--limit``; ``times``
``tables``   aligned columns; ``key_tables``, ``account_tables``, ``limit_tables``: what each shows;
             ``usage_chart``: a key's window, drawn
``top``      the live view
``runtime``  signals, and a watch on the embedded servers, for commands that stay in the foreground
``options``  options, made from `limiter_node.settings`; ``environment``: names variables in error messages
``help``     how ``--help`` reads
"""
