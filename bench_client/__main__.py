"""Runs ``bench-client`` for ``python -m bench_client``."""

from bench_client.cli import main

if __name__ == "__main__":
    main()
