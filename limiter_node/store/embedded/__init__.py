"""Servers of our own, for demos, tests and development.

``stores``          a store that lives as long as its parent: one server, or a cluster
``server``          one server process
``cluster_setup``   how servers become a cluster
``binary``          the program that is run
"""
