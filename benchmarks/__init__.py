"""Measurements behind the figures of docs/measurements.md; `make bench` runs them all. Never part of the tests.

A node and its parts:

`script_speed`         a decision in the store
`policies`             limits on paths, and plain keys beside an earlier commit's
`decision_cpu`         a decision in the node's process
`stages`               each stage of a request, in one process
`node_ratios`          a node on one core, beside its peers
`added_latency`        the latency that deciding adds to a request
`replica_acks`         the cost of waiting for replicas
`gateway`              a node in front of a service
`streaming`            many streams at once

Hard loads:

`flood`, `rejects`     one key far above its limits; the cost of a rejection
`overload`             ten times the load that a node can carry
`long_prompts`         the cost of counting tokens
`soak`                 half an hour with a failover every minute (`make soak`)

Fleets, and the client:

`cluster_and_single`   the same load on a cluster and on a single store
`scaling`, `accounts`  cost by nodes and shards; of accounts, and how much one account can do
`capacity`             the model of a large fleet that is made from both
`client_speed`         the rate that `bench-client` itself can send
`tree_audit`           the audit of plain keys and of a tree of limits, at saturation; not part of `make bench`

Not measurements: `demo` (`make demo`), `report` (`make report`), `top_figure` (a picture for docs/operations.md).

`lib` has the shared parts; `peers` the servers that a node is compared with; `scale` the parts of `scaling`, `accounts`
and `capacity`, `paths` those of `policies`. A benchmark imports these, never another benchmark.
"""
