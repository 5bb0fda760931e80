"""The upstreams, which answer admitted requests. They know neither the limiter nor the node's own HTTP.

``requests``   the requests that are answered, one type per limited route
``answers``    the answers, whole or still to come, and their cost
``errors``     the errors of upstreams that fail, refuse, or can't be asked
``interface``  the interface of every upstream
``openai``     OpenAI's formats for answers that are made in this process
``source``     answers as data, and their sources
``mock``       a source that makes answers of exact length, for trying out and testing
``rendered``   the upstream that renders the answers of a source
``gateway``    the upstream that passes on the answers of services over HTTP
"""
