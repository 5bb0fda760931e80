"""Measurements behind the figures of docs/measurements.md; `make bench` runs them all. Never part of the tests.

A node and its parts:

`script_speed`         a decision in the store
`decision_cpu`         a decision in the node's process
`stages`               each stage of a request, in one process
`node_ratios`          a node on one core, beside its peers
`added_latency`        what deciding adds to a request
`replica_acks`         what waiting for replicas costs
`gateway`              a node in front of a service
`streaming`            many streams at once

Loads that are hard to bear:

`flood`, `rejects`     one key far above its limits; what a rejection costs
`overload`             ten times the load that a node can carry
`long_prompts`         what counting tokens costs
`soak`                 half an hour with a failover every minute (`make soak`)

Fleets, and the client:

`cluster_and_single`   the same load on a cluster and on a single store
`scaling`, `capacity`  cost by nodes and shards; the model of a large fleet that is made from it
`client_speed`         what `bench-client` itself can send

Not measurements: `demo` (`make demo`), `report` (`make report`), `top_figure` (a picture for docs/operations.md).

What they share is in `lib`; the servers that a node is compared with are in `peers`; `scale` is for `scaling` and
`capacity`. A benchmark imports these, never another benchmark.
"""
