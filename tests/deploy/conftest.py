"""The fleet that the tests of deploy/ share, and the Prometheus that watches it."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from balancers import DEPLOY
from fleet import Fleet, running_fleet
from ports import free_ports

ANSWERS = ("--store", "single", "--mock-length", "fixed:20", "--mock-tokens-per-s", "15", "--mock-ttft-ms", "700")
OPTIONS = ("--store", "single", "--drain-delay", "2", "--decision-timeout-ms", "20000", "--read-on", "0")


@pytest.fixture(scope="session")
def watched_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, str | None]]:
    """See `streaming_fleet` and `prometheus`: together, because Prometheus takes five seconds until it first looks."""
    with ExitStack() as running:
        directory = tmp_path_factory.mktemp("streaming")
        keys, key = directory / "upstream-keys.toml", directory / "upstream.key"
        limits = [f"{limit} = 1_000_000_000" for limit in ("rpm", "input_tpm", "output_tpm")]
        keys.write_text("\n".join(['[keys."sk-of-the-fleet"]', *limits]))
        key.write_text("sk-of-the-fleet\n")
        (directory / "upstream").mkdir()
        model = running.enter_context(running_fleet(directory / "upstream", "--keys", str(keys), *ANSWERS, nodes=1))
        upstream = ("--upstream", f"{model.nodes[0]}/v1", "--upstream-key-file", str(key))
        admin = ("--admin-port", str(free_ports(2)[0]))
        fleet = running.enter_context(running_fleet(directory, *OPTIONS, *admin, *upstream))
        url = None
        if shutil.which("prometheus"):
            url = running.enter_context(running_prometheus(fleet, tmp_path_factory.mktemp("prometheus")))
        yield fleet, url
        # The fleet's own end sends the second one, which tells it not to wait for what is under way.
        fleet.process.send_signal(signal.SIGTERM)


@pytest.fixture(scope="session")
def streaming_fleet(watched_fleet: tuple[Fleet, str | None]) -> Fleet:
    """Two nodes on a single store, and a third behind them, whose answers they pass on.

    The two have their probes and metrics on ports of their own. Answers have 20 tokens; streams begin after a silence,
    take two seconds and fit any buffer. A node that is told to stop goes on for longer than a balancer's checks take to
    notice; one whose caller has left doesn't go on at all, so that it shows when it was told.
    """
    return watched_fleet[0]


@pytest.fixture(scope="session")
def prometheus(watched_fleet: tuple[Fleet, str | None]) -> str:
    """The URL of a Prometheus that runs the shipped configuration, at shorter intervals, on `streaming_fleet`."""
    url = watched_fleet[1]
    if url is None:
        pytest.skip("no prometheus on this machine")
    return url


@contextmanager
def running_prometheus(fleet: Fleet, directory: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "250ms")
    nodes = [node.removeprefix("http://") for node in fleet.admin]
    for job in config["scrape_configs"]:
        del job["file_sd_configs"]
        job["static_configs"] = [{"targets": nodes if job["job_name"] == "limiter-node" else []}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    (directory / "alerts.yml").write_bytes((DEPLOY / "alerts.yml").read_bytes())
    address = f"127.0.0.1:{port}"
    command = [
        "prometheus",
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address={address}",
    ]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
    try:
        yield f"http://{address}"
        assert process.poll() is None, (directory / "log").read_text()
    finally:
        process.kill()
        process.wait()
