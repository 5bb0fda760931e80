"""Options and help of the command line; ``bench_client.cli`` has the commands themselves.

``options``      each option, declared once
``environment``  options from environment variables
``help``         how ``--help`` reads
"""
