"""The data of a run: raw responses while it goes on, records afterwards, and the directory of both.

``spool``            the raw responses on their way to disk
``response_fields``  the headers of a response, and the numbers of a rejection's message
``response_usage``   the ``usage`` of a response: the service's cost
``record``           one request: its plan, its times and the limiter's response
``record_file``      the file of all records, whose last line shows whether it is whole
``process_report``   CPU and lateness of one sending process
``run_directory``    the files of one run
``out_directory``    existing results in ``--out``, which only ``--force`` replaces
"""
