"""The servers that a node is compared with, and the service behind it.

`admit_all_node`    the same node without its limiter; `admit_all` decides in it
`minimal_handler`   the least that an aiohttp server can do with a request
`nginx_peer`        nginx with Lua on the same store
`raw_relay`         hands bytes on, and does nothing else
`fast_upstream`     a service that costs nothing to ask
"""
