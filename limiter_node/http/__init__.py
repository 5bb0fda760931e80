"""OpenAI's HTTP interface: requests in, responses out. The only room that speaks HTTP with callers.

``server``            connections, TLS, deadlines, overload: from bytes to requests
``routes``            maps requests to handlers, and failures to responses
``limited_requests``  the steps of a limited request: key, body, count, admit, ask, settle, respond
``auth``              the API key in a request's headers
``bodies``            reading and unpacking a request's body
``requests``          from a body to a checked request and its need
``in_flight``         counts the requests under way, and bounds them
``client_gone``       notices that a client has left while its request is with the upstream
``streaming``         passes an answer on to the caller while it is being produced
``responses``         headers, errors and bodies of responses
``admin``             the admin API: manages keys, accounts and teams, for those who have its token
``cors``              the headers that browsers need
``probes``            ``/healthz``, ``/readyz``, ``/metrics``; ``metrics``: the page of the last one
"""
