"""The files of docker/prometheus and docker/grafana, and what the service exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from clip import ModelManifest
from service.metrics import Metrics
from tests.deploy.promql import find_selectors

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "docker" / "prometheus"
DASHBOARDS = ROOT / "docker" / "grafana" / "dashboards"
PROVISIONING = ROOT / "docker" / "grafana" / "provisioning"
RUNBOOK = ROOT / "docs" / "runbook.md"
SHIPPED = ROOT / "models"

#: What Prometheus adds to every series of a target.
TARGET_LABELS = frozenset({"job", "instance"})
#: What Prometheus makes itself, and their labels.
BUILT_IN: Mapping[str, frozenset[str]] = {
    "up": TARGET_LABELS,
    "ALERTS": frozenset({"alertname", "alertstate", "severity"}),
}
#: Grafana's variables, for expressions that are to be read or run without it.
VARIABLES = {"$__rate_interval": "20s", "$instance": ".*", "$model": ".*"}


@dataclass(frozen=True)
class Expression:
    """A PromQL expression, and where it stands."""

    where: str
    text: str


def read_rules() -> list[dict[str, Any]]:
    """Every recording and alert rule."""
    return [
        rule
        for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]


def read_alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in read_rules() if "alert" in rule}


def read_records() -> set[str]:
    return {rule["record"] for rule in read_rules() if "record" in rule}


def read_dashboards() -> list[dict[str, Any]]:
    return [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(DASHBOARDS.glob("*.json"))
    ]


def list_rule_expressions() -> Iterator[Expression]:
    for rule in read_rules():
        yield Expression(rule.get("alert") or rule["record"], rule["expr"])


def list_panel_expressions() -> Iterator[Expression]:
    for dashboard in read_dashboards():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                yield Expression(panel["title"], fill_in(target["expr"]))


def list_other_expressions() -> Iterator[Expression]:
    """Those of annotations and variables."""
    for dashboard in read_dashboards():
        for annotation in dashboard["annotations"]["list"]:
            if "expr" in annotation:
                yield Expression(annotation["name"], fill_in(annotation["expr"]))
        for variable in dashboard["templating"]["list"]:
            query = variable["query"]["query"]
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
            assert asked, query
            yield Expression(variable["name"], f"count by ({asked[2]}) ({asked[1]})")


def fill_in(expression: str) -> str:
    """The expression as Grafana would send it."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


@cache
def export_samples() -> Mapping[str, list[Mapping[str, str]]]:
    """The labels of every sample of a service that has one model and has made one prediction."""
    metrics = Metrics()
    one = next((SHIPPED / "lrcn").glob("*/manifest.json"))
    manifest = ModelManifest.from_json(one.read_text())
    metrics.add_model(manifest, "CUDAExecutionProvider")
    metrics.watch_queue("lrcn", int)
    metrics.observe_request(
        route="/predict", model="lrcn", code="200", problem_code=None, duration_s=1
    )
    samples: dict[str, list[Mapping[str, str]]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue  # the service leaves them out
            samples.setdefault(sample.name, []).append(sample.labels)
    return samples


def find_faults(expression: Expression) -> list[str]:
    """What an expression asks for that there is not."""
    return [
        f"{expression.where}: {fault}"
        for selector in find_selectors(expression.text)
        for fault in _find_faults(selector.metric, selector.labels, selector.matchers)
    ]


def _find_faults(
    metric: str, labels: set[str], matchers: list[tuple[str, str, str]]
) -> Iterator[str]:
    samples = export_samples().get(metric)
    if metric in BUILT_IN:
        has = BUILT_IN[metric]
    elif metric in read_records():
        # level:metric:operations, the level being the labels that are left.
        has = frozenset(metric.split(":", maxsplit=1)[0].split("_"))
    elif samples is not None:
        has = TARGET_LABELS.union(*samples)
    else:
        yield f"there is no {metric}"
        return
    if not labels <= has:
        yield f"{metric} has no {sorted(labels - has)}"
    for label, operator, value in matchers:
        if samples is None or label in TARGET_LABELS or operator not in {"=", "=~"}:
            continue
        for choice in value.split("|"):
            if choice != ".*" and all(sample.get(label) != choice for sample in samples):
                yield f"{metric} is never {label}={choice}"
