"""Sends a run from several processes; holds the parts that a run of one process uses as well.

``coordinator``  starts the sending processes, gives them one common start, and ends them
``worker``       one of them
``live_view``    the line on the terminal that shows how far the run is
``interrupts``   SIGINT and SIGTERM during a run
"""
