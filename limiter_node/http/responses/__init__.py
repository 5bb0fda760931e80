"""Responses, of HTTP. (OpenAI's Responses API is read in `limiter_node.http.requests`.)

``whole_response``  a response on its way: status, headers and body in one write
``headers``         the headers of every response, the rate limit's among them
``errors``          each error that a caller may be sent, as status and body
``json_bodies``     the bodies of routes that cost nothing
``durations``       times as OpenAI writes them: ``1m0.05s``
"""
