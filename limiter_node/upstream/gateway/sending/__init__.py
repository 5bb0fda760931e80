"""Sends requests to services: chooses the address, and bounds time and retries.

``timeouts``         the time limits of a service
``service_address``  one address of a service, which gets no requests for a while after failures
``rotation``         the order in which the addresses of a service are tried
``outcome``          counts the outcome of a request, and notes it for the address
``service_sender``   sends a request, and again only if it cannot have been read
"""
