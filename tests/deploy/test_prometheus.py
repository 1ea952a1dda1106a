"""Prometheus's own tools and Prometheus itself, with the configuration that is shipped."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.monitoring import (
    PROMETHEUS,
    SHIPPED,
    list_other_expressions,
    list_panel_expressions,
    list_rule_expressions,
    read_records,
)
from tests.drawing import Drawing
from tests.service.process import ServiceProcess, launch_service

#: Only a bound: a machine may be much slower than this one.
WAIT_S = 180.0
#: In place of minutes and days: long enough for several scrapes.
WINDOW_S = 20

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed"
)

#: Panels that rightly show nothing while nothing fails.
QUIET_PANELS = {"Failures"}


def run_promtool(*arguments: object) -> None:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    run_promtool("check", "config", PROMETHEUS / "prometheus.yml")
    rules = sorted((PROMETHEUS / "rules").glob("*.yml"))
    run_promtool("check", "rules", "--lint=all", "--lint-fatal", *rules)


@needs_promtool
@pytest.mark.parametrize(
    "cases", sorted((PROMETHEUS / "tests").glob("*.yml")), ids=lambda path: path.stem
)
def test_the_rules_pass_their_unit_tests(cases) -> None:
    run_promtool("test", "rules", cases)


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires, silent = set(), set()
    for path in (PROMETHEUS / "tests").glob("*.yml"):
        for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for check in case.get("alert_rule_test", ()):
                (fires if check["exp_alerts"] else silent).add(check["alertname"])
    alerts = {one.where for one in list_rule_expressions()} - read_records()
    assert fires == silent == alerts


# --- the real one ---------------------------------------------------------------------------------


def wait_for(find: Callable[[], Any]) -> Any:
    """What `find()` finds, once it finds something."""
    give_up_s = time.monotonic() + WAIT_S
    while not (found := find()):
        assert time.monotonic() < give_up_s, "it never came"
        threading.Event().wait(0.2)
    return found


class Server:
    """A Prometheus that runs."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=WAIT_S)

    def ask(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return result

    def find_firing(self, name: str) -> list[dict[str, Any]]:
        return [
            alert
            for alert in self.ask("alerts")["alerts"]
            if alert["labels"]["alertname"] == name and alert["state"] == "firing"
        ]

    def close(self) -> None:
        self._client.close()


def write_hasty_configuration(folder: Path, target: str) -> Path:
    """The shipped configuration and rules, with seconds for minutes and one known target."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "evaluation_interval": "1s",
    }
    [job] = config["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [target]}]
    (folder / "rules").mkdir()
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"\[\d+[mhd]\]", f"[{WINDOW_S}s]", text)
        text = re.sub(r"^( +(?:for|interval):) \w+$", r"\1 1s", text, flags=re.MULTILINE)
        text = re.sub(r"offset \w+", "offset 2s", text)
        (folder / "rules" / path.name).write_text(text, encoding="utf-8")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / "prometheus.yml"


@contextmanager
def run_prometheus(folder: Path, target: str) -> Iterator[Server]:
    """A Prometheus on a free port of 127.0.0.1, which watches the target."""
    log = folder / "prometheus.log"
    command = [
        "prometheus",
        f"--config.file={write_hasty_configuration(folder, target)}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with log.open("w") as output, subprocess.Popen(command, stderr=output) as process:
        try:

            def find_address() -> str | None:
                assert process.poll() is None, log.read_text()
                found = re.search(
                    r'"?Listening on"? address=(127\.0\.0\.1:[1-9]\d*)', log.read_text()
                )
                return found and found[1]

            server = Server(f"http://{wait_for(find_address)}")
            yield server
            server.close()
        finally:
            process.terminate()
            process.wait(WAIT_S)


@contextmanager
def keep_sending(service: ServiceProcess, clip: bytes, clients: int) -> Iterator[None]:
    """Clients that send a clip, take whatever answer comes, and send it again."""
    enough = threading.Event()

    def send() -> None:
        with httpx.Client(base_url=service.url, timeout=WAIT_S) as client:
            while not enough.wait(0.02):
                status = client.post("/predict", files={"file": clip}).status_code
                assert status in {200, 429}, status

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        enough.set()
        for thread in threads:
            thread.join(WAIT_S)


@needs_prometheus
def test_a_real_prometheus_sees_a_service_under_load_turn_requests_away_and_end(tmp_path) -> None:
    shutil.copytree(SHIPPED / "lrcn", tmp_path / "models" / "lrcn")
    clip = Drawing(frames=30).write(tmp_path / "clip").read_bytes()
    # Room for two: of four clients that never rest one or two are always turned away.
    limits = {"HAR_MAX_IN_FLIGHT": 1, "HAR_MAX_WAITING": 1, "HAR_MAX_BATCH_SIZE": 1}
    folder = tmp_path / "prometheus"
    folder.mkdir()
    with ExitStack() as stack:
        service = stack.enter_context(launch_service(tmp_path / "models", tmp_path, **limits))
        target = f"127.0.0.1:{service.port}"
        prometheus = stack.enter_context(run_prometheus(folder, target))

        with keep_sending(service, clip, clients=4):
            [alert] = wait_for(lambda: prometheus.find_firing("HarQueueFull"))
            assert alert["labels"]["severity"] == "warning"
            assert alert["annotations"]["runbook_url"] == "docs/runbook.md#harqueuefull"
            assert "were answered with 429." in alert["annotations"]["description"]

            for record in sorted(read_records()):
                wait_for(lambda record=record: prometheus.query(record))
            empty = {
                one.where for one in list_panel_expressions() if not prometheus.query(one.text)
            }
            assert empty <= QUIET_PANELS
            for expression in list_other_expressions():
                prometheus.query(expression.text)

        [ready] = prometheus.query("har_ready")
        assert ready["metric"] == {"__name__": "har_ready", "job": "har", "instance": target}
        assert ready["value"][1] == "1"
        [answered] = prometheus.query('sum(har_predictions_total{model="lrcn"})')
        assert float(answered["value"][1]) > 0
        unhealthy = [
            rule
            for group in prometheus.ask("rules")["groups"]
            for rule in group["rules"]
            if rule["health"] != "ok"
        ]
        assert unhealthy == []
        assert not prometheus.find_firing("HarDown")

        service.stop()
        [alert] = wait_for(lambda: prometheus.find_firing("HarDown"))
        assert alert["labels"]["instance"] == target
        assert alert["annotations"]["summary"] == f"{target} does not answer its scrapes."
