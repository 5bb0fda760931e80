"""The HTTP server: aiohttp's, with deadlines, caps and a main loop of our own.

``listening``          one address, from opening it to closing its last connection
``handshakes``         TLS handshakes with a deadline; ``tls``: the certificate, read again when it is renewed
``http_server``        the server: makes connections and looks after them
``client_connection``  one connection: its errors and deadlines
``serving``            its main loop
``slices``             a connection that is sent many tiny pieces
``raw_body``           the bytes of a body as they come
``overload``           which requests are turned away, and how that stays cheap
"""
