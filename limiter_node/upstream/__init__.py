"""The upstreams, which answer admitted requests. They know neither the limiter nor the node's own HTTP.

``requests``   the requests that are answered, one type per limited route
``answers``    the answers, whole or still to come, and their cost
``errors``     that an upstream fails, or refuses, or can't be asked
``interface``  what every upstream can do
``openai``     OpenAI's formats for answers that are made in this process
``source``     answers as data, and what makes them
``mock``       a source that makes answers of exact length, for trying out and testing
``rendered``   the upstream that writes out what a source answers
``gateway``    the upstream that passes on what services answer over HTTP
"""
