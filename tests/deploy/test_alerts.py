"""Rules ask for what there is; each alert says what it is and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from service.settings import LATENCY_BUCKETS_S, Settings
from tests.deploy.monitoring import (
    PROMETHEUS,
    ROOT,
    RUNBOOK,
    Expression,
    find_faults,
    list_rule_expressions,
    read_alerts,
    read_dashboards,
    read_records,
)
from tests.deploy.promql import find_selectors

SECTIONS = re.split(r"^## ", RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
RUNBOOK_ALERTS = {
    title: body
    for title, _, body in (section.partition("\n") for section in SECTIONS)
    if title.startswith("Har")
}


@pytest.mark.parametrize("expression", [*list_rule_expressions()], ids=lambda one: one.where)
def test_a_rule_asks_for_what_the_service_exports(expression) -> None:
    assert find_faults(expression) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("rate(har_failures[5m])", "there is no har_failures"),
        ("har_request_duration_seconds", "there is no har_request_duration_seconds"),
        ("har_ready_total > 0", "there is no har_ready_total"),
        ("sum by (modell) (har_queue_depth)", "har_queue_depth has no ['modell']"),
        ('har_ready{model="lrcn"}', "har_ready has no ['model']"),
        ("up and on (route) har_ready", "up has no ['route']"),
        ("job:har_failures:increase2h", "there is no job:har_failures:increase2h"),
        ('har_failures_total{reason="overloaded"}', "is never reason=overloaded"),
        ('har_event_loop_lag_seconds_bucket{le="0.2"}', "is never le=0.2"),
        ('sum(rate(har_decoder_restarts_total{reason=~"crashed|ill"}[5m]))', "reason=ill"),
    ],
)
def test_a_rule_that_asks_for_something_else_would_be_found(text, fault) -> None:
    assert fault in "\n".join(find_faults(Expression("a rule", text)))


def test_names_are_read_out_of_promql() -> None:
    found = find_selectors(
        "sum by (job, le) (rate(a_total{x=\"}{\", y!~'b'}[5m] offset 1h)) / on (job)\n"
        "# c_total\nquantile(0.5, d:e:f5m) > bool 1e-3 or vector(1)"
    )
    assert [(one.metric, one.labels) for one in found] == [
        ("a_total", {"x", "y", "job", "le"}),
        ("d:e:f5m", {"job"}),
    ]
    assert found[0].matchers == [("x", "=", "}{"), ("y", "!~", "b")]


def test_the_job_is_called_what_the_rules_call_it() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert [job["job_name"] for job in config["scrape_configs"]] == ["har"]
    asked = {
        value
        for expression in list_rule_expressions()
        for selector in find_selectors(expression.text)
        for label, _, value in selector.matchers
        if label == "job"
    }
    assert asked == {"har"}


def test_every_record_is_used() -> None:
    text = str(read_dashboards()) + str([alert["expr"] for alert in read_alerts().values()])
    assert {record for record in read_records() if record not in text} == set()


def test_the_latency_objective_is_a_bucket_so_that_its_quantile_is_exact() -> None:
    assert 2.5 in LATENCY_BUCKETS_S


@pytest.mark.parametrize("name", [*read_alerts()])
def test_an_alert_says_how_bad_it_is_what_it_is_and_where_to_read_on(name) -> None:
    alert = read_alerts()[name]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["for"]
    annotations = alert["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert all(annotations[field].endswith(".") for field in ("summary", "description"))
    assert annotations["runbook_url"] == f"docs/runbook.md#{name.lower()}"


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    assert set(RUNBOOK_ALERTS) == set(read_alerts())


@pytest.mark.parametrize("name", [*RUNBOOK_ALERTS])
def test_a_section_says_what_it_means_where_to_look_and_what_to_do(name) -> None:
    section = RUNBOOK_ALERTS[name]
    for part in ("**Means.**", "**Look at.**", "**Do.**"):
        assert section.count(part) == 1
    severity = read_alerts()[name]["labels"]["severity"]
    assert f"({severity}" in section.partition("**Look at.**")[0].lower()


def test_the_runbook_names_panels_and_settings_that_exist() -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    panels = {panel["title"] for board in read_dashboards() for panel in board["panels"]}
    named = set(re.findall(r"panel[s]? ((?:\*[^*\n]+\*(?:, | and )?)+)", text))
    titles = {title for group in named for title in re.findall(r"\*([^*]+)\*", group)}
    assert titles
    assert titles <= panels
    settings = {f"HAR_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"HAR_[A-Z_]+[A-Z]", text)) <= settings


def test_the_log_lines_that_the_runbook_quotes_are_logged() -> None:
    """Quoted as `log: pattern` for grep; what it finds stands in the source."""
    quoted = re.findall(r"`log: ([^`]+)`", RUNBOOK.read_text(encoding="utf-8"))
    source = "".join(
        path.read_text(encoding="utf-8") for path in Path(ROOT / "service").glob("*.py")
    )
    assert quoted
    assert [pattern for pattern in quoted if not re.search(pattern, source)] == []
    assert "%" not in "".join(quoted)
