"""Responses, of HTTP. (OpenAI's Responses API is read in `limiter_node.http.requests`.)

``whole_response``    a response on its way: status, headers and body in one write
``headers``           the headers of every response, the rate limit's among them
``path_headers``      the headers about the limits on a path of account, teams and key
``errors``            each error that a caller may be sent, as status and body
``path_errors``       the sentence of a rejection on a path
``caller_view``       the part of a path that its caller may see, and its names
``json_bodies``       the bodies of routes that cost nothing
``rate_limits_body``  a key's limits and usage
``durations``         times as OpenAI writes them: ``1m0.05s``
"""
