"""``limiter-node keys``: makes keys, shows them, changes and deletes them.

``group``        the group, and the order of its commands in ``--help``
``generating``   keys files with random keys
``creating``     a new key, and its secret
``showing``      one key, or the list of them
``changing``     limits and names, the end, the state, the account
``credentials``  rotation and revocation of secrets
``deleting``     a key that goes, with its usage
"""
