"""Limiting, for the rest of the node; knows neither aiohttp nor redis.

``admission``   the limiter, its reservations, and the protocol of the decider behind it
``fallback``    the protocol of a policy for when the store can't be asked, and the knowledge it decides by
``policies``    the policies of ``--on-store-failure``; ``path_policies``: for requests that touch several windows
``own_window``  a node's own admissions of a key, which it knows without the store
"""
