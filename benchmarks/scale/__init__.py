"""How cost scales with nodes, shards and keys: the parts of `benchmarks.scaling` and `benchmarks.capacity`.

`sharded_fleet`       nodes before a cluster, and what their processes have used
`fleet_loads`         the loads that such a fleet gets
`shard_calls`         what a script call costs a shard that many nodes are connected to
`scaling_sample`      one measurement, as `scaling` writes it and `capacity` reads it
`capacity_fit`        costs fitted to the measurements; `capacity_formulas` has the formulas
`capacity_fleet`      what a fleet can do at these costs
`key_skew`            how uneven a skewed load is over shards
"""
