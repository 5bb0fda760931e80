"""deploy/kubernetes/: valid by Kubernetes' own schema, and consistent with itself. It doesn't run here."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from balancers import DEPLOY, program

MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
OUTSIDE_SCHEMA = {"ServiceMonitor"}  # the Prometheus operator's


def documents() -> list[dict[str, Any]]:
    return [each for path in MANIFESTS for each in yaml.safe_load_all(path.read_text())]


def manifest(kind: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in documents() if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def named_values(container: Mapping[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_is_valid(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        if document["kind"] not in OUTSIDE_SCHEMA:
            kubernetes_validate.validate(document, "1.37", strict=True)


def test_manifests_name_what_there_is() -> None:
    kustomization = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
    shipped = {path.relative_to(DEPLOY).as_posix() for path in MANIFESTS}
    assert set(kustomization["resources"]) == shipped - {"kubernetes/monitor.yaml"}
    maps, secrets = kustomization["configMapGenerator"], kustomization["secretGenerator"]
    for generated in (*maps, *secrets):
        assert all((DEPLOY / file).exists() for file in generated.get("files", []))
    text = "\n".join(path.read_text() for path in MANIFESTS)
    assert set(re.findall(r"(?:configMapRef|configMap): \{name: ([\w-]+)", text)) == {each["name"] for each in maps}
    asked = set(re.findall(r"secretKeyRef: \{name: ([\w-]+)|secretName: ([\w-]+)", text))
    assert {first or second for first, second in asked} == {each["name"] for each in secrets}


def test_nodes_leave_before_they_stop_and_stop_before_they_are_killed() -> None:
    pod = manifest("Deployment", "limiter-node")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = named_values(container)
    delay, drain = (float(environment[f"LIMITER_DRAIN_{name}"]) for name in ("DELAY", "TIMEOUT"))
    probe = container["readinessProbe"]
    assert delay > probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    assert pod["terminationGracePeriodSeconds"] > delay + drain + 5
    assert probe["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/healthz"


def test_stores_pods_are_the_ones_that_are_asked() -> None:
    store = manifest("StatefulSet", "valkey")["spec"]
    names = [f"{manifest('Service', store['serviceName'])['metadata']['name']}-{i}" for i in range(store["replicas"])]
    servers = " ".join(f"{name}.valkey:7000" for name in names)
    (server,) = store["template"]["spec"]["containers"]
    (job,) = manifest("Job", "form-cluster")["spec"]["template"]["spec"]["containers"]
    assert named_values(server)["SERVERS"] == named_values(job)["SERVERS"] == servers
    (node,) = manifest("Deployment", "limiter-node")["spec"]["template"]["spec"]["containers"]
    _, _, asked = named_values(node)["LIMITER_STORE"].partition("@")
    assert set(asked.split(",")) <= set(servers.split())


def test_kustomize_puts_it_together() -> None:
    built = subprocess.run([program("kubectl"), "kustomize", str(DEPLOY)], capture_output=True, text=True, check=True)
    for document in yaml.safe_load_all(built.stdout):
        kubernetes_validate.validate(document, "1.37", strict=True)
        assert document["metadata"].get("namespace", "limiter") == "limiter"
    assert (DEPLOY / "valkey.conf").read_text().splitlines()[0] in built.stdout
