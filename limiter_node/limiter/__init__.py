"""Limiting, as the rest of the node sees it; knows neither aiohttp nor redis.

``admission``    the limiter: requests are admitted, and hold a reservation until they end; the protocol of who decides
``fallback``     the protocol of a policy that decides where the store can't be asked, and the knowledge it decides by
``policies``     the policies of ``--on-store-failure``
``own_window``   a node's own admissions of a key, which it knows without the store
"""
