"""Bodies of requests: read within the node's budget, unpacked, and one large one at a time.

``body``        a whole body, of bounded size
``body_errors`` the errors for bodies that couldn't be read
``unpacking``   bodies that were sent compressed, unpacked in slices
``body_turns``  turns of the event loop, one for each large block
"""
