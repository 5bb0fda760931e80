"""The open-loop benchmark client; knows the limiter only by HTTP and by its command line.

``cli``        the commands of ``bench-client``; ``command_line`` has the form of their options and help
``commands``   ``run``, ``compare`` and ``find-max``
``report``     runs as an HTML page and as figures
``audit``      proves or refutes that the limiter kept its rules
``results``    counts, rates and latencies from the records
``processes``  sends a run from several processes
``sending``    sends one process's share
``servers``    the servers under load: reached, started, watched
``records``    the record of each request, and the files of a run
``settings``   the settings of a run, checked
``load``       the requests to send, and their due times
``clock``, ``errors``   used by all of them

Imports point down this list; ``tests/test_architecture.py`` has the exact table.
"""
