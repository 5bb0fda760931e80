"""The servers under load, as seen from outside: by HTTP, by the command line of ``limiter-node``, by ``/proc``.

``targets``             URLs, and the wait until each server is ready
``limiter_under_test``  a limiter that the client starts itself
``procfs``              processes of this machine, and the CPU that they use
``server_watch``        takes samples of the servers while load is offered
``metrics_page``        a node's ``/metrics``, fetched during the run and read after it
``servers_file``        ``servers.json``, where the samples are kept
"""
