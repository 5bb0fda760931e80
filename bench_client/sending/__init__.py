"""Sends one process's share of a run, open-loop.

``share``              the requests of the process, and its sender made ready
``open_loop_sender``   sends each request when it is due
``alarm``              wakes the sender for the next due request
``target_pool``        the connections to one target, and the requests that wait for one
``target_connection``  one of these connections
``request_log``        deadlines and results of the requests, which all of the above share
``outcome``            the progress of the sending, and its outcome
"""
