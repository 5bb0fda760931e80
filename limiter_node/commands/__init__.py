"""The commands of ``limiter-node``: they read options, print results, and call the rooms below.

``up``       nodes and, unless one is given, a store; ``ports``: which ports they get
``serve``    one node
``store``    an embedded store
``keys``     keys files, limits and usage; ``usage_chart``: a key's window, drawn;
             ``key_tables``: limits and usage as tables
``top``      the live view
``runtime``  signals, and a watch on the embedded servers, for commands that stay in the foreground
``options``  options, made from `limiter_node.settings`; ``environment``: names variables in error messages
``help``     how ``--help`` reads
"""
