"""HTTP/1.1 to services: connections that are kept, and one request and its answer at a time on each of them.

``wakeup``              lets one task wait until something has happened
``exchange``            one request and its answer: the head, the body as it comes, the end
``read_turns``          takes in large reads slice by slice, so that no connection has the event loop for itself
``service_connection``  one connection: parses answers, and bounds what a service may send
``request_writing``     writes a request on a connection and waits for the head of its answer
``dialing``             makes connections: names, TLS, time limits
``connection_pool``     keeps the connections to one address between requests
"""
