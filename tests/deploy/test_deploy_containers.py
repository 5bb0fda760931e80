"""The image and the compose file: what can run here does, the rest is held against its schema and the code."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from balancers import DEPLOY, program
from check_jsonschema.cli import main as check_jsonschema
from click.testing import CliRunner
from dockerfile_parse import DockerfileParser
from fleet import Fleet
from memory_limits import MAXMEMORY, MEMORY_OF_A_NODE, in_bytes
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ports import free_port

ROOT = DEPLOY.parent


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def instructions() -> list[dict[str, Any]]:
    with (DEPLOY / "Containerfile").open("rb") as file:
        parsed: list[dict[str, Any]] = DockerfileParser(fileobj=file).structure
    return parsed


def values(name: str) -> list[str]:
    return [each["value"] for each in instructions() if each["instruction"] == name]


def environment_of_the_image() -> dict[str, str]:
    return dict(re.findall(r"(LIMITER_\w+)=(\S+)", " ".join(values("ENV"))))


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


# ---- the image ------------------------------------------------------------------------------------------------------


def needed(section: str, option: str) -> set[str]:
    """The distributions that an option of setup.cfg asks for, and what these ask for."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    left = [Requirement(line) for line in setup[section][option].splitlines() if line]
    met: dict[str, Requirement] = {}
    while left:
        asked = left.pop()
        if str(asked) not in met:
            met[str(asked)] = asked
            left += [each for each in map(Requirement, metadata.requires(asked.name) or []) if is_asked(each, asked)]
    return {canonicalize_name(each.name) for each in met.values()}


def is_asked(each: Requirement, by: Requirement) -> bool:
    """Whether it holds here, with the extras that are asked of who names it."""
    return each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *by.extras))


def locked(path: Path) -> dict[str, str]:
    """By name, the version and hashes of each entry that holds on this Python and system."""
    entries = re.findall(r"^([a-z].*?) \\\n((?:    --hash=[^\n]*\n)+)", path.read_text(), re.MULTILINE)
    requirements = [(Requirement(text), hashes) for text, hashes in entries]
    return {
        canonicalize_name(each.name): f"{each.specifier}\n{hashes.replace(chr(92), '')}"
        for each, hashes in requirements
        if each.marker is None or each.marker.evaluate()
    }


def test_each_lock_has_what_was_tested_and_nothing_else() -> None:
    """A node's, with what builds the package; with the client on top; with the tools of the tests on top of that."""
    everything = locked(ROOT / "requirements" / "dev.txt")
    of_a_node = needed("options", "install_requires") | {"setuptools"}
    with_the_client = of_a_node | needed("options.extras_require", "bench")
    for path, names in (
        (DEPLOY / "requirements.txt", of_a_node),
        (ROOT / "requirements" / "run.txt", with_the_client),
    ):
        assert locked(path) == {name: entry for name, entry in everything.items() if name in names}
    assert with_the_client | needed("options.extras_require", "report") < set(everything)


def test_a_node_installs_nothing_of_the_clients() -> None:
    """hdrhistogram, above all: it has no wheel for Linux on arm64, so that the image could not be built there."""
    clients = needed("options.extras_require", "report") - needed("options", "install_requires") - {"setuptools"}
    assert {"hdrhistogram", "matplotlib", "numpy"} <= clients
    assert not clients & set(locked(DEPLOY / "requirements.txt"))


def test_the_image_is_made_of_files_that_are_there_and_let_in() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for value in values("COPY") if "--from" not in value for source in value.split()[:-1]}
    assert copied == let_in
    assert all((ROOT / source).exists() for source in copied)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = {line.removesuffix("*") for line in setup["options.packages.find"]["include"].splitlines() if line}
    assert packages <= copied


def test_the_image_runs_as_nobody_and_in_the_fleets_version() -> None:
    assert values("USER") == ["65532:65532"]
    assert json.loads(values("ENTRYPOINT")[0]) == ["limiter-node"]
    assert json.loads(values("CMD")[0]) == ["serve"]
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    version = setup["metadata"]["version"]
    assert f'image.version="{version}"' in values("LABEL")[0]
    assert compose()["services"]["node-1"]["image"] == f"limiter-node:{version}"
    kustomization = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
    assert kustomization["images"][0]["newTag"] == version


def test_the_images_health_check_tells_a_node_from_none(streaming_fleet: Fleet) -> None:
    command = json.loads(values("HEALTHCHECK")[0].partition("CMD")[2])
    command[0] = sys.executable
    port = streaming_fleet.admin[0].rpartition(":")[2]
    for asked, code in ((port, 0), ("1", 1)):
        environment = {**os.environ, "LIMITER_ADMIN_PORT": asked}
        assert subprocess.run(command, env=environment, stderr=subprocess.DEVNULL).returncode == code


def test_a_node_that_is_process_1_drains_and_exits_0(streaming_fleet: Fleet) -> None:
    """As in a container without an init: the kernel delivers no signal to process 1 that it doesn't handle itself."""
    namespace = [program("unshare"), "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*namespace, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no namespaces for us on this machine")
    node = [sys.executable, "-m", "limiter_node", "serve", "--port", str(free_port()), "--store", streaming_fleet.store]
    with subprocess.Popen([*namespace, *node], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "ready" in process.stdout.readline()
            (pid,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            assert Path(f"/proc/{pid}/status").read_text().split("NSpid:")[1].split("\n")[0].split()[-1] == "1"
            os.kill(int(pid), signal.SIGTERM)
            assert process.wait(15) == 0
        finally:
            process.kill()


# ---- compose --------------------------------------------------------------------------------------------------------


def test_compose_is_valid() -> None:
    result = CliRunner().invoke(
        check_jsonschema, ["--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")]
    )
    assert result.exit_code == 0, result.output


def test_compose_names_what_there_is() -> None:
    file = compose()
    for name, service in file["services"].items():
        assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), f"{name}: no exact version"
        assert set(service["networks"]) <= set(file["networks"])
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            known = (DEPLOY / source).exists() if source.startswith(".") else source in file["volumes"]
            assert known, f"{name}: {source}"
        for other, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                upon = file["services"][other]
                assert "healthcheck" in upon or upon["image"].startswith("limiter-node"), f"{name}: {other}"
        assert {each["source"] for each in service.get("configs", [])} <= set(file["configs"])


def test_compose_gives_servers_the_addresses_that_are_asked() -> None:
    services = compose()["services"]
    names = [f"valkey-{number}" for number in range(1, 7)]
    addresses = [f"{services[name]['networks']['store']['ipv4_address']}:7000" for name in names]
    assert services["form-cluster"]["command"] == addresses
    for node in ("node-1", "node-2"):
        environment = services[node]["environment"]
        _, _, asked = environment["LIMITER_STORE"].partition("@")
        assert asked == ",".join(addresses[:3])
        stops_in = seconds(environment["LIMITER_DRAIN_DELAY"]) + seconds(environment["LIMITER_DRAIN_TIMEOUT"])
        assert seconds(services[node]["stop_grace_period"]) > stops_in
    balancer, image = services["balancer"]["environment"], environment_of_the_image()
    assert {balancer[f"NODE_{n}"] for n in (1, 2)} == {f"node-{n}:{image['LIMITER_PORT']}" for n in (1, 2)}
    assert {balancer[f"ADMIN_PORT_{n}"] for n in (1, 2)} == {image["LIMITER_ADMIN_PORT"]}
    (group,) = yaml.safe_load(compose()["configs"]["node-targets"]["content"])
    assert group["targets"] == [f"node-{n}:{image['LIMITER_ADMIN_PORT']}" for n in (1, 2)]


def test_compose_starts_with_passwords_of_its_users_alone() -> None:
    """Where one is missing, compose says so and starts nothing. Nobody has one at Grafana."""
    text = (DEPLOY / "compose.yaml").read_text()
    variables = re.findall(r"(?<!\$)\$\{(\w+)([^}]*)\}", text)
    assert {name for name, _ in variables} == {"STORE_PASSWORD", "NODES_PASSWORD"}
    assert all(rest.startswith(":?") for _, rest in variables)
    assert {line.split("=")[0] for line in re.findall(r"export (.*)", text)[0].split(" ") if "PASSWORD=" in line} == {
        name for name, _ in variables
    }
    grafana = compose()["services"]["grafana"]["environment"]
    assert grafana["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"


def test_compose_bounds_memory() -> None:
    file = compose()["services"]
    assert all("mem_limit" in service for service in file.values())
    assert in_bytes(file["node-1"]["mem_limit"]) >= MEMORY_OF_A_NODE


# ---- all of them ----------------------------------------------------------------------------------------------------


UNITS = ["limiter-node@8080.service", "valkey@7000.service"]


def unit_file(directory: Path, unit: str) -> Path:
    """With a program and an environment that exist here."""
    text = (DEPLOY / re.sub(r"@\d+", "@", unit)).read_text()
    text = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={shutil.which('true')}", text)
    path = directory / unit
    path.write_text(text.replace("/etc/limiter-node.env", "/dev/null"))
    return path


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_one_that_systemd_takes(tmp_path: Path, unit: str) -> None:
    path = unit_file(tmp_path, unit)
    verified = subprocess.run([program("systemd-analyze"), "verify", str(path)], capture_output=True, text=True)
    complaints = [line for line in verified.stderr.splitlines() if unit in line]
    assert (verified.returncode, complaints) == (0, [])


def test_the_readmes_addition_to_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    (addition,) = re.findall(r"```ini\n(.*?)```", (DEPLOY / "README.md").read_text("utf-8"), re.DOTALL)
    path = unit_file(tmp_path, UNITS[0])
    path.write_text(path.read_text() + addition)
    verified = subprocess.run([program("systemd-analyze"), "verify", str(path)], capture_output=True, text=True)
    assert (verified.returncode, [line for line in verified.stderr.splitlines() if UNITS[0] in line]) == (0, [])


def test_the_readme_installs_files_that_are_there_where_the_unit_looks_for_them() -> None:
    readme = (DEPLOY / "README.md").read_text("utf-8")
    named = set(re.findall(r"\bdeploy/[\w@.-]*\w", readme.partition("## A node as a service")[2]))
    assert named == {"deploy/requirements.txt", "deploy/limiter-node.env", "deploy/limiter-node@.service"}
    assert all((ROOT / path).is_file() for path in named)
    unit = (DEPLOY / "limiter-node@.service").read_text()
    assert "EnvironmentFile=/etc/limiter-node.env" in unit
    assert "ExecStart=/opt/limiter-node/bin/limiter-node serve" in unit
    assert "python3 -m venv /opt/limiter-node\n" in readme
    assert "deploy/limiter-node.env /etc/limiter-node.env " in readme


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_confined(tmp_path: Path, unit: str) -> None:
    """By systemd's own measure, from 0 (nothing is exposed) to 10; without its settings a unit has more than 9."""
    path = unit_file(tmp_path, unit)
    command = [program("systemd-analyze"), "security", "--offline=true", "--threshold=20", "--no-pager", str(path)]
    judged = subprocess.run(command, capture_output=True, text=True)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    settings = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    assert settings["LimitCORE"] == "0"
    if unit.startswith("limiter-node"):
        assert in_bytes(settings["MemoryMax"]) >= MEMORY_OF_A_NODE
        assert settings["ExecStart"].endswith("--port %i --admin-port 1%i")
    else:
        assert in_bytes(settings["MemoryMax"]) >= 2 * MAXMEMORY


def test_every_option_exists() -> None:
    command = [sys.executable, "-m", "limiter_node", "serve", "--help"]
    listed = set(re.findall(r"--[a-z][a-z-]+", subprocess.run(command, capture_output=True, text=True).stdout))
    files = [DEPLOY / name for name in ("Containerfile", "compose.yaml", "kustomization.yaml", "limiter-node.env")]
    named = {
        f"--{name.lower().replace('_', '-')}"
        for path in (*files, *(DEPLOY / "kubernetes").glob("*.yaml"))
        for name in re.findall(r"\bLIMITER_([A-Z_]*[A-Z])\b", path.read_text())
    }
    named.discard("--upstream-key")  # from the environment only, where `ps` doesn't show it
    assert {"--store", "--drain-delay", "--log-format"} <= named <= listed
