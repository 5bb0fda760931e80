"""The open-loop benchmark client; knows the limiter only by HTTP and by its command line.

``cli``        the commands of ``bench-client``; ``command_line`` has the form of their options and help
``commands``   ``run``, ``compare`` and ``find-max``
``report``     runs as an HTML page and as figures
``audit``      proves or refutes that the limiter kept its rules
``results``    counts, rates and latencies from the records
``processes``  sends a run from several processes
``sending``    sends one process's share
``servers``    the servers under load: reached, started, watched
``records``    what is kept of each request
``settings``   the settings of a run, checked
``load``       what is sent, and when
``clock``, ``errors``   what all of them use

Imports point down this list; ``tests/test_architecture.py`` has the exact table.
"""
