"""`make report`: a cluster and a single store under the same load, as a page and as the figures of the documents.

`bench-client compare` on two nodes, long enough for the windows to slide: after 60 s the first admissions leave them.
Keys of very different load, and limits that an average key meets in all three dimensions at once, so that chance
decides which binds; a tenth of them share limits of an account, too. The page goes beside the records in
results/report; figures and, where chromium and its driver are there, a picture of the page into benchmarks/figures.

    python -m benchmarks.report [--qps RATE] [--seconds S] [--out DIR] [--figures DIR]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.lib.screenshot import browser, browser_paths, show, take

PAGE_NAME = "report.html"
PICTURE_NAME = "report.png"
WIDTH, HEIGHT = 1180, 1250
"""Size of the picture, which reaches down to the first windows."""
LOAD = ("--zipf", "0.8", "--input-tokens", "uniform:10:80")
LIMITS = ("--keys-count", "100", "--rpm", "1200", "--input-tpm", "54300", "--output-tpm", "123500")
"""An average request has 45 tokens in and 102 out."""


def main() -> int:
    """Run the comparison, write page, figures and picture; the exit code is that of the first command that fails."""
    options_of = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options_of.add_argument("--qps", type=float, default=1500, help="rate of requests (%(default)s)")
    options_of.add_argument("--seconds", type=float, default=100, help="of load on each store (%(default)s)")
    options_of.add_argument("--out", type=Path, default=Path("results") / "report", help="(%(default)s)")
    options_of.add_argument("--figures", type=Path, default=Path("benchmarks") / "figures", help="(%(default)s)")
    options = options_of.parse_args()
    rate = ("--qps", f"{options.qps:g}", "--duration", f"{options.seconds:g}")
    failed = _bench_client("compare", *rate, *LOAD, *LIMITS, "--out", str(options.out), "--force")
    page = options.out / PAGE_NAME
    failed = failed or _bench_client("report", str(options.out), "--html", str(page), "--figures", str(options.figures))
    return failed or _picture(page, options.figures / PICTURE_NAME)


def _bench_client(*arguments: str) -> int:
    print(f"\n$ bench-client {' '.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, "-m", "bench_client", *arguments]).returncode


def _picture(page: Path, to: Path) -> int:
    if browser_paths() is None:
        print(f"no {to}: chromium and chromedriver are not installed")
        return 0
    with browser() as driver:
        show(driver, page, width=WIDTH, height=HEIGHT)
        take(driver, to)
    print(f"{to}: {to.stat().st_size / 1000:,.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
