"""The admin API, on the admin port: manages keys, accounts and teams, as the commands do.

``api``           from a request to its response: token, route, checks, operation
``token_file``    the token, read from its file
``table``         the table of routes: serves requests, makes the document
``schemas``       the JSON schemas of requests and replies; ``schema_parts``: what they are put together from
``openapi``       the document
``checking``      checks requests by the schemas
``calls``         a checked request and its reply
``operations``    what each route does, by the manager
``connection``    the manager, connected to the store by the first request
``admin_errors``  errors as responses
"""
