"""The greatest cost of an account's batch for the store, and how much a call may cost, so that none takes over 1 ms.

The unit is about 1,000 instructions of the server, counted on the longest calls of ``benchmarks/policies.py``: full
windows, whose groups of buckets are all read for the first time. Batches of 9,900 units took up to 1.3 ms, so the
budget is a quarter less. A window's cost is by time, which is more than its instructions say: 20 windows took up to 1.2
ms. A usual call costs a fraction of it: a rejection searches one window in depth, and few windows are idle for half of
their length.

    cost = 440 × windows + for each operation the windows of its path × (31 for a settle or charge, 21 for an admit)
"""

from __future__ import annotations

BUDGET = 7_500
"""The most that a call may cost."""
WINDOW = 440
"""A window half of whose buckets have left: it is read, 13 groups are taken off, and it is written."""
OTHER = 31
"""A settle or charge, per window of its path: the group of an earlier bucket is read, changed and written."""
ADMIT = 21
"""An admit, per window of its path: it is rejected, and half of each window is searched for the time to try again."""
