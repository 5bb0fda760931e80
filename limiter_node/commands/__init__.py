"""The commands of ``limiter-node``, one module per group: they read options, print results, call what is below."""
