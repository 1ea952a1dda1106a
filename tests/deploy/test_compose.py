"""Both compose files: valid, closed, and with sizes that fit the settings."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FILES = ("docker-compose.yml", "docker-compose.gpu.yml")
TLS = "docker-compose.tls.yml"
#: What the service takes beside its decoders: three models, warmed up, and the fork server.
SERVICE_BYTES = {"cpu": 1.25 * 1024**3, "gpu": 3 * 1024**3}
UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}

Compose = dict[str, Any]


def read(name: str) -> Compose:
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def merge(below: Any, above: Any) -> Any:
    """As the specification has it: mappings by key, mounts by target, sequences joined."""
    if isinstance(below, dict) and isinstance(above, dict):
        merged = dict(below)
        for key, value in above.items():
            if key not in below:
                merged[key] = value
            elif key == "volumes" and isinstance(value, list):
                mounts = {mount_target(mount): mount for mount in [*below[key], *value]}
                merged[key] = list(mounts.values())
            else:
                merged[key] = merge(below[key], value)
        return merged
    if isinstance(below, list) and isinstance(above, list):
        return below + above
    return above


@pytest.fixture(params=["cpu", "gpu"])
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def compose(variant: str) -> Compose:
    base = read(FILES[0])
    return base if variant == "cpu" else merge(copy.deepcopy(base), read(FILES[1]))


def mount_target(mount: str | Mapping[str, Any]) -> str:
    return mount["target"] if isinstance(mount, dict) else split_mount(mount)[1]


def split_mount(mount: str) -> list[str]:
    """Of the short form, source:target:mode, in which a default's ":-" is no separator."""
    return re.split(r":(?!-)", mount)


def to_bytes(size: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([kmg]?)", str(size)).groups()
    return int(number) * UNITS[unit]


def to_seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def settings_of(service: Compose) -> Settings:
    """The service's own reading of what compose sets, as in its container."""
    given = {
        name.removeprefix("HAR_").lower(): value
        for name, value in service["environment"].items()
        if name.startswith("HAR_") and "${" not in value
    }
    return Settings(host="0.0.0.0", **given)


@pytest.mark.parametrize("name", FILES)
def test_the_specifications_schema_holds(name: str) -> None:
    validator = pytest.importorskip("jsonschema").Draft7Validator
    pytest.importorskip("check_jsonschema")
    schemas = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((schemas / "compose-spec.json").read_text("utf-8"))
    faults = [
        f"{list(e.absolute_path)}: {e.message}" for e in validator(schema).iter_errors(read(name))
    ]
    assert not faults


@pytest.mark.parametrize("files", [FILES[:1], FILES, (*FILES[:1], TLS)], ids=["cpu", "gpu", "tls"])
@pytest.mark.parametrize("program", ["podman-compose", "docker"])
def test_a_compose_implementation_takes_it(program: str, files: tuple[str, ...]) -> None:
    found = shutil.which(
        program, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    command = [str(found), "compose"] if program == "docker" else [str(found)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HAR_")}
    if (
        found is None
        or subprocess.run([*command, "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip(f"no {' '.join(command[1:]) or program} here")
    if TLS in files:
        environment["HAR_API_KEYS"] = "0123456789abcdef"
    words = [word for name in files for word in ("-f", name)]
    done = subprocess.run(
        [*command, *words, "config"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert {"service", "proxy", "prometheus", "grafana"} <= set(services)
    device = "cuda" if FILES[1] in files else "cpu"
    assert services["service"]["environment"]["HAR_DEVICE"] == device
    assert len(services["proxy"]["ports"]) == (2 if TLS in files else 1)


def test_each_container_is_confined(compose: Compose) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"] > 0, name
        assert not {"cap_add", "privileged", "devices", "network_mode", "pid", "ipc"} & set(
            service
        ), name


def test_what_up_starts_is_bounded_and_started_again(compose: Compose) -> None:
    started = {n: s for n, s in compose["services"].items() if "profiles" not in s}
    assert set(started) == {"service", "proxy", "prometheus", "grafana"}
    for name, service in started.items():
        assert service["restart"] == "unless-stopped", name
        assert to_bytes(service["mem_limit"]) > 0, name


def test_a_training_is_bounded_by_what_env_says(compose: Compose) -> None:
    limit = re.fullmatch(
        r"\$\{HAR_TRAINING_MEMORY:-(.+)\}", compose["services"]["training"]["mem_limit"]
    )
    assert limit
    assert f"\nHAR_TRAINING_MEMORY={limit[1]}\n" in (ROOT / ".env.example").read_text("utf-8")
    assert to_bytes(limit[1]) >= 8 * 1024**3


def test_the_service_has_no_way_out_and_publishes_nothing(compose: Compose) -> None:
    service = compose["services"]["service"]
    assert "ports" not in service
    assert service["networks"] == ["inside"]
    assert compose["networks"]["inside"] == {"internal": True}


def test_ports_are_published_to_this_machine_alone(compose: Compose) -> None:
    ports = [port for s in compose["services"].values() for port in s.get("ports", [])]
    assert len(ports) == 3
    for port in ports:
        assert port.startswith(("127.0.0.1:", "${HAR_PUBLISH_ADDRESS:-127.0.0.1}:")), port


def test_models_are_mounted_read_only(compose: Compose) -> None:
    [mount] = [m for m in compose["services"]["service"]["volumes"] if m["type"] == "bind"]
    assert (mount["source"], mount["target"], mount["read_only"]) == ("./models", "/models", True)
    assert mount["bind"]["create_host_path"] is False


def test_the_spool_holds_all_uploads_at_once(compose: Compose) -> None:
    service = compose["services"]["service"]
    settings = settings_of(service)
    [spool] = [m for m in service["volumes"] if m["type"] == "tmpfs"]
    assert spool["target"] == "/spool"
    needed = settings.max_in_flight * settings.max_upload_bytes + settings.min_spool_free_bytes
    assert needed <= to_bytes(spool["tmpfs"]["size"]) <= 1.2 * needed


def test_memory_is_enough_for_spool_decoders_and_service(compose: Compose, variant: str) -> None:
    service = compose["services"]["service"]
    settings = settings_of(service)
    [spool] = [m for m in service["volumes"] if m["type"] == "tmpfs"]
    needed = to_bytes(spool["tmpfs"]["size"]) + settings.decoders * settings.decoder_memory_bytes
    assert to_bytes(service["mem_limit"]) >= needed + SERVICE_BYTES[variant]


def test_a_stop_waits_for_the_drain(compose: Compose) -> None:
    service, proxy = compose["services"]["service"], compose["services"]["proxy"]
    assert to_seconds(service["stop_grace_period"]) >= settings_of(service).shutdown_grace_s + 5
    assert to_seconds(proxy["stop_grace_period"]) >= to_seconds(service["stop_grace_period"])


def test_the_proxy_is_more_patient_than_the_service(compose: Compose) -> None:
    settings = settings_of(compose["services"]["service"])
    for file, directive, own_s in (
        ("proxy.conf", "proxy_read_timeout", settings.request_timeout_s),
        ("proxy.conf", "proxy_send_timeout", settings.request_timeout_s),
        ("server.conf", "client_body_timeout", settings.upload_idle_timeout_s),
    ):
        text = (ROOT / "docker/nginx" / file).read_text("utf-8")
        [timeout_s] = re.findall(rf"^{directive} (\d+)s;", text, re.MULTILINE)
        assert int(timeout_s) > own_s, directive


def test_what_is_mounted_and_built_is_in_the_repository(compose: Compose) -> None:
    for name, service in compose["services"].items():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
        if name == "training":
            continue  # data/ and runs/ are the user's own
        for mount in service["volumes"]:
            source = mount.get("source") if isinstance(mount, dict) else split_mount(mount)[0]
            if source and source.startswith("."):
                assert (ROOT / source).exists(), source


def test_foreign_images_are_pinned_to_a_release(compose: Compose) -> None:
    foreign = [s["image"] for s in compose["services"].values() if "build" not in s]
    assert len(foreign) == 3
    for image in foreign:
        assert re.search(r":v?\d+\.\d+\.\d+(-[a-z]+)?$", image), image


def test_no_program_counts_the_cores_of_a_large_machine(compose: Compose) -> None:
    """On 128 cores each would start as many threads or processes, beyond its limits."""
    services = compose["services"]
    for name in ("prometheus", "grafana"):
        assert int(services[name]["environment"]["GOMAXPROCS"]) < services[name]["pids_limit"] / 8
    text = (ROOT / "docker/nginx/nginx.conf").read_text("utf-8")
    [workers] = re.findall(r"^worker_processes (\S+);", text, re.MULTILINE)
    assert int(workers) <= 4
    # Of the service's models each has a thread for each core, those of a reload beside the old.
    models = len(list((ROOT / "models").iterdir()))
    assert services["service"]["pids_limit"] >= 2 * models * 256


def test_the_gpu_file_asks_for_a_gpu_and_no_silent_fallback() -> None:
    services = merge(read(FILES[0]), read(FILES[1]))["services"]
    for name in ("service", "training"):
        [device] = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
        assert services[name]["build"]["args"]["VARIANT"] == "gpu"
        assert services[name]["image"].endswith(":gpu")
    assert services["service"]["environment"]["HAR_DEVICE"] == "cuda"


def test_every_variable_of_the_files_is_explained_in_env_example() -> None:
    used = {
        v for name in FILES for v in re.findall(r"\$\{([A-Z_]+)", (ROOT / name).read_text("utf-8"))
    }
    explained = set(
        re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text("utf-8"), re.MULTILINE)
    )
    assert used == explained


def start_proxy(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """start.sh, with a program in nginx's place that tells what it is given."""
    stand_in = folder / "nginx"
    stand_in.write_text('#!/bin/sh\necho "nginx $*"\n', "utf-8")
    stand_in.chmod(0o755)
    return subprocess.run(
        ["/bin/sh", str(ROOT / "docker/nginx/start.sh")],
        env={"PATH": f"{folder}:/usr/bin:/bin", **variables},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("address", "has_keys", "starts"),
    [
        ("", "", True),
        ("127.0.0.1", "", True),
        ("::1", "", True),
        ("0.0.0.0", "", False),
        ("192.168.1.7", "", False),
        ("::", "", False),
        ("0.0.0.0", "1", True),
    ],
)
def test_other_machines_are_let_in_with_keys_only(
    tmp_path: Path, address: str, has_keys: str, *, starts: bool
) -> None:
    done = start_proxy(tmp_path, HAR_PUBLISH_ADDRESS=address, HAR_HAS_KEYS=has_keys)
    assert (done.returncode == 0) is starts
    if starts:
        assert done.stdout == "nginx -g daemon off;\n"
    else:
        assert "HAR_API_KEYS" in done.stderr
