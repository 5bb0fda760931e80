"""The parts that several benchmarks share.

`measuring`       rows of medians, tables, JSON and options
`servers`         starts a node, and pins servers to cores
`loads`           closed-loop loads; `saturate` is the process that sends them
`open_loop`       open-loop loads by `bench-client run`
`overload_load`   a load of clients that keep asking after a 503
`streams`         a load of many streams
`shard`           a server that runs the scripts, and the CPU of its calls
`stand_ins`       connections that stand in for nodes and keep such a server busy
`azure_sizes`     sizes of prompts and answers as in a recorded trace; `prompt_texts` has texts of a given size
`screenshot`      pictures of HTML pages
"""
