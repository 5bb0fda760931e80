"""``python -m bench_client``."""

from .cli import main

if __name__ == "__main__":
    main()
