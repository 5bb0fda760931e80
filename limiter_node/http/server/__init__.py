"""The HTTP server: aiohttp's, with deadlines, caps and a main loop of our own.

``listening``          one address, from opening it to closing its last connection
``handshakes``         TLS handshakes with a deadline; ``tls``: the certificate, read again when it is renewed
``http_server``        the server: makes connections and looks after them
``client_connection``  one connection: its errors and deadlines; ``slow_readers``: whether its client takes its answer
``fast_connection``    its states, as aiohttp's private names tell them; ``slices``: one that is sent many tiny pieces
``public_connection``  its states, as aiohttp's public API lets one guess them
``aiohttp_private``    the private names, the main loop that is made of them, and what is to be done without
``raw_body``           the bytes of a body as they come
``last_words``         what is said to no request in particular
``overload``           which requests are turned away, and how that stays cheap
"""
