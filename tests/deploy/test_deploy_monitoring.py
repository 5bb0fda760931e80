"""What watches a fleet: rules and dashboard ask for metrics that nodes have; a real Prometheus answers each panel."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import urllib.parse
from collections import Counter
from itertools import combinations
from typing import Any

import pytest
import yaml
from aiohttp import ClientError, ClientSession
from balancers import DEPLOY, program
from fleet import Fleet, chat

RULES = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in RULES["groups"] for rule in group["rules"]]


def panel_queries() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


def without_variables(query: str) -> str:
    """The query as Grafana sends it, for all nodes."""
    for variable, value in (("$__rate_interval", "2s"), ("$job", "limiter-node"), ("$instance", ".*")):
        query = query.replace(variable, value)
    assert "$" not in query, query
    return query


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")],
    ids=" ".join,
)
def test_promtool_accepts_the_files_as_they_are(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([program("promtool"), *arguments], cwd=DEPLOY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_says_what_to_do_and_has_a_case() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    cases = (DEPLOY / "alerts_test.yml").read_text()
    assert len({rule["alert"] for rule in alerts}) == len(alerts) > 15
    for rule in alerts:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert len(rule["annotations"]["summary"]) > 10, rule
        assert len(rule["annotations"]["description"]) > 60, rule
        assert f'alertname="{rule["alert"]}"' in cases, f"{rule['alert']} has no case in which it fires"


def test_the_dashboard_is_well_formed() -> None:
    panels = DASHBOARD["panels"]
    assert max(Counter(panel["id"] for panel in panels).values()) == 1
    assert max(Counter(panel["title"] for panel in PANELS if panel["type"] != "stat").values()) == 1
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        ), (one, other)
    for panel in PANELS:
        assert panel["description"]
        assert panel["type"] == "heatmap" or panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert 'job="$job"' in target["expr"], "a panel must not mix in what others call the same"
    assert DASHBOARD["schemaVersion"] >= 36
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "job", "instance"]


async def test_every_metric_asked_for_is_one_that_nodes_have(streaming_fleet: Fleet) -> None:
    async with ClientSession() as session, session.get(f"{streaming_fleet.admin[0]}/metrics") as response:
        page = await response.text()
    checked = subprocess.run([program("promtool"), "check", "metrics"], input=page, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    have = {re.split(r"[{ ]", line)[0] for line in page.splitlines() if not line.startswith("#")}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for query in [rule["expr"] for rule in rules()] + panel_queries():
        asked = set(re.findall(r"\b(?:limiter|process|python)_[a-z_]+", query))
        assert asked <= have, f"{asked - have} in {query}"
        assert set(re.findall(r"limiter:[\w:]+", query)) <= recorded


class Prometheus:
    """A running one, asked by HTTP."""

    def __init__(self, session: ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        async with self._session.get(f"{self._url}/api/v1/{path}?{query}") as response:
            body = await response.json()
        assert body["status"] == "success", body
        return body["data"]

    async def until_answered(self, query: str) -> None:
        while not (await self.get("query", query=query))["result"]:
            await asyncio.sleep(0.05)


async def test_prometheus_answers_every_panel_and_finds_nothing_wrong(streaming_fleet: Fleet, prometheus: str) -> None:
    async with ClientSession() as session, asyncio.timeout(40):
        asking = Prometheus(session, prometheus)
        while True:
            try:
                await asking.until_answered('sum(up{job="limiter-node"}) == 2')
                break
            except ClientError:
                await asyncio.sleep(0.05)
        api_key = streaming_fleet.new_key(rpm=20)
        for node in streaming_fleet.nodes * 15:
            await chat(session, node, api_key, max_tokens=5)
        for query in panel_queries():
            await asking.until_answered(without_variables(query))
        while any(rule["health"] == "unknown" for rule in await every_rule(asking)):
            await asyncio.sleep(0.05)
        assert {rule["health"] for rule in await every_rule(asking)} == {"ok"}
        assert [alert for alert in (await asking.get("alerts"))["alerts"] if alert["state"] == "firing"] == []


async def every_rule(asking: Prometheus) -> list[dict[str, Any]]:
    groups = (await asking.get("rules"))["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert len(found) == len(rules())
    return found
