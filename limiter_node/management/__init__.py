"""Keys, accounts and teams as people manage them: found by name, changed, shown, explained.

Commands and the admin API call `manager` and show what it returns. Every change is written over exactly what was read,
or made again; it counts from the next decision of every node, and is logged once.

``manager``     all operations
``finding``     WHO: by name, by the beginning of a digest, by a secret
``keys``        keys made, changed, disabled, deleted; ``credentials``: their secrets rotated, revoked
``changing``    a change of one key, written over what was read
``moving``      keys moved between accounts and teams; ``naming``: the names that keys may have
``accounts``    accounts made, changed, deleted; ``teams``: their teams; ``members``: their keys
``fields``      fields as people write them, checked
``views``       the forms in which all of these are shown
``showing``     views made from what is stored; ``explaining``: the limits of a key for one model, in words
``errors``      the errors beside wrong input
"""
