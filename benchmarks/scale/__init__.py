"""The scaling of cost with nodes, shards and keys: the parts of `benchmarks.scaling` and `benchmarks.capacity`.

`sharded_fleet`       nodes before a cluster, and the CPU of their processes
`fleet_loads`         the loads on such a fleet
`shard_calls`         the cost of a script call for a shard with many connected nodes
`scaling_sample`      one measurement, as `scaling` writes it and `capacity` reads it
`capacity_fit`        costs fitted to the measurements; `capacity_formulas` has the formulas
`capacity_fleet`      the highest rate of a fleet at these costs
`key_skew`            the unevenness of a skewed load over shards
"""
