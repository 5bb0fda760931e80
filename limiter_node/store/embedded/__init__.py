"""Embedded store servers, for demos, tests and development.

``stores``         a store that lives as long as its parent: one server, or a cluster
``server``         one server process
``cluster_setup``  joins servers to a cluster
``binary``         finds the server program
"""
