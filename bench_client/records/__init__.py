"""What is kept of a run: the raw responses while it goes on, its records afterwards, and the directory of both.

``spool``            the raw responses on their way to disk
``response_fields``  what a response says: its headers, and the numbers of a rejection's message
``response_usage``   what its ``usage`` says of the service's cost
``record``           one request: what was sent when, and what the limiter said of it
``record_file``      the file of all records, whose last line tells whether it is whole
``process_report``   how one sending process fared
``run_directory``    the files of one run
``out_directory``    what ``--out`` already holds, which only ``--force`` replaces
"""
