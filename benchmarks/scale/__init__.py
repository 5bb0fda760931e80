"""The scaling of cost with nodes, shards, keys and accounts: the parts of `scaling`, `accounts` and `capacity`.

What is measured:

`sharded_fleet`         nodes before a cluster, and the CPU of their processes
`fleet_loads`           the loads on such a fleet; `account_loads` has those on accounts
`shard_calls`           the cost of a script call for a shard with many connected nodes
`account_calls`         the same for calls on paths, by windows, keys and operations
`scaling_sample`        one measurement of a load, as `scaling` and `accounts` write it and `capacity` reads it
`account_measurements`  all that `accounts` writes, read and fitted

The model:

`capacity_fit`          costs fitted to the measurements; `capacity_formulas` has the formulas
`account_shape`         an account's windows, and what one call for its operations touches
`account_costs`         what each part of a call on paths costs, and memory
`account_fit`           what paths cost a node, and the check of the model on loads
`placed`                what lies on a shard as a whole: plain keys, accounts
`capacity_fleet`        the highest rate of a fleet at these costs; `capacity_needs`: the fleet that a rate needs
`account_bounds`        how much one account may do; `account_waiting`: how long its operations wait
`key_skew`              the unevenness of a skewed load over shards
"""
