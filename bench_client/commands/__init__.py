"""The commands that send load; the others are the packages ``audit`` and ``report``.

``run``       one run, from its settings to its results
``compare``   the same workload on a cluster and on a single store
``compared_account``  the account of a comparison
``find_max``  trials by ``run`` until the highest rate that holds is found
``search``    chooses the rate to try next
"""
