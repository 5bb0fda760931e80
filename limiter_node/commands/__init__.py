"""The commands of ``limiter-node``: they read options, print results, and call what is below.

``up``       nodes and, where none is given, a store; ``ports``: which ports they get
``serve``    one node
``store``    an embedded store
``keys``     keys files, limits and usage; ``usage_chart``: a key's window, drawn
``top``      the live view
``runtime``  signals, and an eye on the embedded servers, for commands that stay in the foreground
``options``  options, made from `limiter_node.settings`; ``environment``: those that came from a variable
``help``     how ``--help`` reads
"""
