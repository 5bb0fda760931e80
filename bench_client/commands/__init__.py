"""What the commands do that send load; the package ``audit`` and the package ``report`` are the others.

``run``       one run, from its settings to its results
``compare``   the same workload on a cluster and on a single store
``find_max``  trials by ``run`` until the highest rate that holds is found
``search``    which rate is tried next
"""
