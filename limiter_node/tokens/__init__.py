"""How many tokens something is.

``vocabulary``  of a text, by the vocabulary of a model; ``cache``: counts of texts that come again
``chat``        of a chat's messages
``tools``       of tool definitions and JSON schemas
``totals``      sums that can be counted now or later
``process``     counting without holding up the event loop; ``slices``: where a text can be cut
"""
