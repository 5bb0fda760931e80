"""deploy/kubernetes/: valid by Kubernetes' own schema, and consistent with itself. It doesn't run here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from balancers import DEPLOY, program
from memory_limits import MAXMEMORY, MEMORY_OF_A_NODE, in_bytes

MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
OUTSIDE_SCHEMA = {"PodMonitor"}  # the Prometheus operator's


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


def test_with_the_admin_api_manifests_are_valid_too() -> None:
    """Without the comment signs of the lines about it, and as the nodes' secret is mounted then."""
    shown = {"node.yaml": "LIMITER_ADMIN_TOKEN_FILE", "network.yaml": "limiter-admin"}
    for name, word in shown.items():
        text = (DEPLOY / "kubernetes" / name).read_text()
        given, count = re.subn(rf"(?m)^( +)# (- .*{word}.*\n) +# (  .*\n)", r"\1\2\1\3", text)
        assert count == 1
        for document in yaml.safe_load_all(given):
            kubernetes_validate.validate(document, "1.37", strict=True)
        if name == "node.yaml":
            (container,) = next(yaml.safe_load_all(given))["spec"]["template"]["spec"]["containers"]
            folder, _, file = named_values(container)["LIMITER_ADMIN_TOKEN_FILE"].rpartition("/")
            assert {"name": "keys", "mountPath": folder, "readOnly": True} in container["volumeMounts"]
            assert f"secrets/{file}]" in (DEPLOY / "kustomization.yaml").read_text()


def test_manifests_name_what_there_is() -> None:
    kustomization = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
    shipped = {path.relative_to(DEPLOY).as_posix() for path in MANIFESTS}
    assert set(kustomization["resources"]) == shipped - {"kubernetes/monitor.yaml"}
    maps, secrets = kustomization["configMapGenerator"], kustomization["secretGenerator"]
    assert all((DEPLOY / file).exists() for each in maps for file in each.get("files", []))
    for each in secrets:
        assert "literals" not in each, "a secret that everybody knows"
        assert all(file.startswith("secrets/") for file in (*each.get("files", []), *each.get("envs", [])))
    assert "/deploy/secrets/" in (DEPLOY.parent / ".gitignore").read_text().splitlines()
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
    assert {each["httpGet"]["port"] for each in (probe, container["livenessProbe"], container["startupProbe"])} == {
        "admin"
    }
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


def test_callers_have_no_way_to_the_admin_port() -> None:
    """Neither by the Service nor past it; Prometheus has one."""
    (container,) = manifest("Deployment", "limiter-node")["spec"]["template"]["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert named_values(container)["LIMITER_ADMIN_PORT"] == str(ports["admin"])
    assert [each["targetPort"] for each in manifest("Service", "limiter-node")["spec"]["ports"]] == ["http"]
    (monitored,) = manifest("PodMonitor", "limiter-node")["spec"]["podMetricsEndpoints"]
    assert monitored["port"] == "admin"
    template = manifest("Deployment", "limiter-node")["spec"]["template"]["metadata"]
    assert template["annotations"]["prometheus.io/port"] == str(ports["admin"])
    rules = manifest("NetworkPolicy", "limiter-node")["spec"]["ingress"]
    assert [rule["ports"] for rule in rules if "from" not in rule] == [[{"port": "http"}]]


def test_pods_may_talk_to_those_they_need_alone() -> None:
    nothing = manifest("NetworkPolicy", "nothing-else")["spec"]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name in ("limiter-node", "valkey", "form-cluster"):
        policy = manifest("NetworkPolicy", name)["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert all(rule["to"] for rule in policy["egress"]), "to somebody, not to anybody"
        ports = [port["port"] for rule in policy["egress"] for port in rule.get("ports", [])]
        assert {"valkey", 53} <= set(ports), f"{name} needs the store and names"


def test_memory_is_bounded_and_enough() -> None:
    (node,) = manifest("Deployment", "limiter-node")["spec"]["template"]["spec"]["containers"]
    assert in_bytes(node["resources"]["limits"]["memory"]) >= MEMORY_OF_A_NODE
    (server,) = manifest("StatefulSet", "valkey")["spec"]["template"]["spec"]["containers"]
    assert in_bytes(server["resources"]["limits"]["memory"]) >= 2 * MAXMEMORY


def kustomized(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("kubectl"), "kustomize", str(directory)], capture_output=True, text=True)


def test_kustomize_puts_it_together_once_there_are_secrets(tmp_path: Path) -> None:
    """Made as kustomization.yaml says."""
    directory = tmp_path / "deploy"
    shutil.copytree(DEPLOY, directory, ignore=shutil.ignore_patterns("secrets"))
    assert kustomized(directory).returncode != 0, "no password works by default"
    make = re.findall(r"(?m)^#     ((?:mkdir|for|limiter-node) .*)$", (DEPLOY / "kustomization.yaml").read_text())
    assert len(make) == 3
    script = "\n".join(make).replace("limiter-node", f"{sys.executable} -m limiter_node")
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    built = kustomized(directory)
    assert built.returncode == 0, built.stderr
    (secret,) = (each for each in yaml.safe_load_all(built.stdout) if each["metadata"]["name"].startswith("store-"))
    assert set(secret["data"]) == {"servers", "nodes"}
    for document in yaml.safe_load_all(built.stdout):
        kubernetes_validate.validate(document, "1.37", strict=True)
        assert document["metadata"].get("namespace", "limiter") == "limiter"
    assert (DEPLOY / "valkey.conf").read_text().splitlines()[0] in built.stdout
