"""Options and help of the command line; ``bench_client.cli`` has the commands themselves.

``options``      each option, declared once
``environment``  options from environment variables
``help``         how ``--help`` reads
``failures``     any failure as one line and an exit code
"""
