"""The cost of limits on paths: the parts of `benchmarks.policies`.

`measured_account`    an account in the store, and the calls that decide on its paths
`cases`               what is measured: calls by name, run in turn
`flat_cases`          plain keys: the script beside an earlier one, and what paths are compared with
`path_cases`          paths of 2, 5 and 8 windows, batches of many keys, rejections
`longest_call`        the slowest single calls, on copies of one full account
`memory_rows`         bytes of windows of each kind
`node_rows`           a node's CPU beside an earlier one's
`earlier`             the code of an earlier commit, by git
"""
