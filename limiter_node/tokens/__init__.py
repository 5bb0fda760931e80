"""Counts tokens.

``vocabulary``  tokens of a text, by the vocabulary of a model; ``cache``: counts of repeated texts
``chat``        tokens of a chat's messages
``tools``       tokens of tool definitions and JSON schemas
``totals``      sums that can be counted now or later
``process``     counts without holding up the event loop; ``slices``: cuts texts without changing their count
"""
