"""The dashboard asks for what there is, and is what Grafana loads."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path

import pytest
import yaml

from tests.deploy.monitoring import (
    PROVISIONING,
    export_samples,
    find_faults,
    list_other_expressions,
    list_panel_expressions,
    read_dashboards,
    read_records,
    read_rules,
)
from tests.deploy.promql import find_selectors

ROOT = Path(__file__).resolve().parents[2]
[DASHBOARD] = read_dashboards()
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SOURCE = {"type": "prometheus", "uid": "prometheus"}


@pytest.mark.parametrize(
    "expression",
    [*list_panel_expressions(), *list_other_expressions()],
    ids=lambda one: one.where,
)
def test_an_expression_asks_for_what_there_is(expression) -> None:
    assert find_faults(expression) == []


def test_every_metric_of_the_service_is_on_the_dashboard() -> None:
    """Or in a rule whose record is. What is left out is left out on purpose."""
    asked = {
        selector.metric
        for expression in list_panel_expressions()
        for selector in find_selectors(expression.text)
    }
    recorded = {rule["record"]: rule["expr"] for rule in read_rules() if "record" in rule}
    for record in asked & read_records():
        asked |= {selector.metric for selector in find_selectors(recorded[record])}
    families = {
        name.removesuffix("_bucket") for name in export_samples() if name.endswith("_bucket")
    }
    shown = {
        next((family for family in families if name.startswith(f"{family}_")), name)
        for name in asked
    }
    exported = {
        next((family for family in families if name.startswith(f"{family}_")), name)
        for name in export_samples()
        if name.startswith("har_")
    }
    assert exported - shown == {"har_build_info"}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_in_which_unit_and_from_where(panel) -> None:
    assert panel["description"].endswith(".")
    assert panel["datasource"] == SOURCE
    assert all(target["datasource"] == SOURCE for target in panel["targets"])
    references = [target["refId"] for target in panel["targets"]]
    assert len({*references}) == len(references)
    if panel["type"] in {"timeseries", "stat"}:
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None
    if panel["type"] == "heatmap":
        [target] = panel["targets"]
        assert target["format"] == "heatmap"
        assert target["expr"].startswith("sum by (le) (increase(")
        assert "_bucket{" in target["expr"]
        assert panel["options"]["calculate"] is False


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    rows = [panel["gridPos"]["y"] for panel in panels if panel["type"] == "row"]
    assert all(one < other for one, other in pairwise(rows))


def test_a_choice_of_model_and_instance_counts_wherever_it_can() -> None:
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"model", "instance"}
    for panel in PANELS:
        for target in panel["targets"]:
            for selector in find_selectors(target["expr"].replace("$__rate_interval", "1m")):
                labels = {
                    label
                    for sample in export_samples().get(selector.metric, ())
                    for label in sample
                }
                chosen = {value for _, _, value in selector.matchers}
                if labels:
                    assert "$instance" in chosen, panel["title"]
                if (
                    "model" in labels
                    and '"/predict"}' not in target["expr"]
                    and "by (route)" not in target["expr"]
                ):
                    assert "$model" in chosen, panel["title"]


def test_the_data_source_and_the_folder_are_provisioned() -> None:
    [source] = yaml.safe_load(
        (PROVISIONING / "datasources" / "prometheus.yml").read_text(encoding="utf-8")
    )["datasources"]
    assert {key: source[key] for key in ("type", "uid")} == SOURCE
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((PROVISIONING / "dashboards" / "har.yml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    assert (DASHBOARD["uid"], DASHBOARD["id"]) == ("har-service", None)


def test_grafana_opens_with_the_dashboard() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    grafana = compose["services"]["grafana"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    mounts = [mount.split(":") for mount in grafana["volumes"] if isinstance(mount, str)]
    [source] = [source for source, target, *_ in mounts if target == str(home.parent)]
    assert (ROOT / source / home.name).is_file()
