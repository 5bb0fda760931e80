"""Sending requests to services: to which address, within which time, how often.

``timeouts``         how long a service may take
``service_address``  one address of a service, left alone for a while when it fails
``rotation``         in which order the addresses of a service are tried
``outcome``          counts how a request has ended, and notes it for its address
``service_sender``   sends a request, again only where it cannot have been read
"""
