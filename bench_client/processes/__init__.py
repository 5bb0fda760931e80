"""Sends a run from several processes, and what one process needs for that, too.

``coordinator``  starts the sending processes, gives them one common start, and ends them
``worker``       one of them
``live_view``    the line on the terminal that shows how far the run is
``interrupts``   SIGINT and SIGTERM while a run goes on
"""
