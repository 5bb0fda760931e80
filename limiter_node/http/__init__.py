"""OpenAI's HTTP interface: requests in, responses out. The only room that speaks HTTP with callers.

``server``            connections, TLS, deadlines, overload: from bytes to requests
``routes``            which request goes where, and what becomes of one that fails
``limited_requests``  the way of a request that is limited: key, body, count, admit, ask, settle, respond
``auth``              the API key in a request's headers
``bodies``            reading and unpacking a request's body
``requests``          from a body to a checked request and what it needs
``in_flight``         the requests under way, and how many there may be
``client_gone``       noticing that a client has left while its request is with the upstream
``streaming``         an answer passed on to the caller while it is being produced
``responses``         headers, errors and bodies of responses
``cors``              the headers that browsers want
``probes``            ``/healthz``, ``/readyz``, ``/metrics``; ``metrics``: what the last one says
"""
