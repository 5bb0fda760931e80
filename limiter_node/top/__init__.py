"""``limiter-node top``: nodes and store sampled, made into frames, drawn on a terminal or written as lines.

One way: `polling` (nodes) and `limiter_node.store.admin.watch` (the store) → `frame` (rates between two samples) →
`screen` or `lines`; `loop` drives it.
"""
