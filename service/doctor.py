"""python -m service.doctor: find out whether the service could run here with these settings.

Loads what the service would load, decodes a clip that it makes itself in a confined decoder, and
tells what it finds, one line a finding. Exit codes: 0 healthy (warnings included), 1 not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import BinaryIO, Final, Literal, cast

import onnxruntime

from clip import ClipError, ClipSpec
from clip.specimen import COLOURS, find_difference, write_specimen
from service.cuda import CUDA_PROVIDER, find_gpu_obstacle
from service.deadline import Deadline
from service.decoder_protocol import UnexpectedError
from service.descriptors import count_possible_connections
from service.errors import ServiceError
from service.forkserver import ForkServerError
from service.memory import describe_shortage, find_available_memory
from service.metrics import Metrics
from service.runtime import build_decoders, load_models
from service.session import CPU_PROVIDER, ModelLoadError
from service.settings import (
    Settings,
    SettingsError,
    count_usable_cpus,
    find_unknown_variables,
    load_settings,
)
from service.spool import Spool
from service.tracing import check_tracing

Status = Literal["ok", "warning", "failed"]

_PACKAGES: Final = (
    "har-service",
    "numpy",
    "av",
    "opencv-python-headless",
    "fastapi",
    "uvicorn",
    "pydantic",
)
_GIBIBYTE: Final = 1024**3
_PROBE_TIMEOUT_S: Final = 120
_DECODE_TIMEOUT_S: Final = 60.0
_SPECIMEN_SPEC: Final = ClipSpec(frames=2 * len(COLOURS))
#: What the service's clients may send; the clip that is made here need not keep to it.
_CLIENTS_LIMITS: Final = ("max_pixels", "max_frames", "max_duration_s", "max_upload_bytes")
_MISSING_LIBRARY: Final = re.compile(r"with error: (\S+): cannot open shared object file")

# Whether a provider loads shows only when a session asks for it, and the library that is missing is
# named on stderr alone: both are watched from outside. The model is y = Identity(x), one float.
_IDENTITY: Final = (
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a00100d"
)
_PROBE: Final = """
import sys, onnxruntime
name, model = sys.argv[1:]
if name.startswith("CUDA"):
    onnxruntime.preload_dlls()
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(
    bytes.fromhex(model), options, providers=[name], enable_fallback=0
)
print("runs on", session.get_providers()[0])
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        status: "warning" is worth knowing, "failed" keeps the service from working.
        detail: what was found, in words.
    """

    name: str
    status: Status
    detail: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything that the service needs, one finding after the other."""
    yield _list_versions()
    unknown = find_unknown_variables()
    if unknown:
        yield Finding("settings", "warning", f"no such setting: {', '.join(unknown)}")
    for provider in onnxruntime.get_available_providers():
        yield examine_provider(provider, settings)
    yield from examine_models(settings)
    yield examine_threads(settings)
    yield examine_connections(settings)
    yield examine_memory(settings, find_available_memory())
    yield from examine_spool(settings)
    yield examine_tracing(settings)
    yield asyncio.run(examine_decoder(settings))


def _list_versions() -> Finding:
    found = [f"Python {platform.python_version()}", f"onnxruntime {onnxruntime.__version__}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return Finding("versions", "ok", f"{', '.join(found)}; {platform.platform()}")


def probe_provider(name: str) -> tuple[bool, str]:
    """(whether it really loads, why not), found out in a process of its own."""
    try:
        probe = subprocess.run(  # noqa: S603 - every word is this program's own
            [sys.executable, "-c", _PROBE, name, _IDENTITY],
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"it does not load within {_PROBE_TIMEOUT_S} s"
    if f"runs on {name}" in probe.stdout:
        return True, ""
    missing = _MISSING_LIBRARY.search(probe.stderr)
    if missing:
        return False, f"{missing[1]} is missing"
    words = probe.stderr.strip().splitlines()
    return False, words[-1] if words else "ONNX Runtime does not say why"


def examine_provider(name: str, settings: Settings) -> Finding:
    """Whether an execution provider of this build really loads, and whether that matters."""
    if name not in {CPU_PROVIDER, CUDA_PROVIDER}:
        return Finding(name, "ok", "in this build; the service does not use it")
    loads, reason = probe_provider(name)
    if loads:
        return Finding(name, "ok", "loads")
    status: Status = "failed"
    if name == CUDA_PROVIDER:
        obstacle = find_gpu_obstacle()
        reason = "; ".join(filter(None, (obstacle, reason)))
        if settings.device != "cuda":
            # No GPU is no news; a GPU that lies idle is.
            status = "ok" if settings.device == "cpu" or obstacle else "warning"
    return Finding(name, status, f"does not load: {reason}")


def examine_models(settings: Settings) -> Iterator[Finding]:
    """Every model loaded, verified and run, where its nodes run, and which is the default."""
    try:
        registry = load_models(settings)
    except ModelLoadError as error:
        yield Finding("models", "failed", str(error))
        return
    for model in registry:
        manifest = model.manifest
        name = f"model {manifest.name}/{manifest.version}"
        spec = manifest.clip_spec
        detail = (
            f"{describe_nodes(model.nodes)}; {len(manifest.classes)} classes, "
            f"{spec.frames} frames of {spec.width}x{spec.height}"
        )
        strays = model.provider == CUDA_PROVIDER and CPU_PROVIDER in model.nodes
        yield Finding(name, "warning" if strays else "ok", detail)
        model.close()
    if registry.default is None:
        names = ", ".join(model.manifest.name for model in registry.newest())
        yield Finding("default model", "warning", f"none: requests have to name one of {names}")
    else:
        yield Finding("default model", "ok", registry.default)


def describe_nodes(nodes: Mapping[str, int]) -> str:
    """How many nodes each provider runs, in words."""
    return ", ".join(f"{count} nodes on {name}" for name, count in sorted(nodes.items()))


def examine_threads(settings: Settings) -> Finding:
    """Whether there are CPUs for all threads and decoders."""
    cpus = count_usable_cpus()
    detail = (
        f"{cpus} usable CPUs, {settings.intra_op_threads} threads a run of a model, "
        f"{settings.decoders} decoders"
    )
    crowded = max(settings.intra_op_threads, settings.decoders) > cpus
    return Finding("threads", "warning" if crowded else "ok", detail)


def examine_connections(
    settings: Settings, count_possible: Callable[[Settings], int] = count_possible_connections
) -> Finding:
    """Whether as many connections can be open as the settings let in."""
    try:
        possible = count_possible(settings)
    except SettingsError as error:
        return Finding("connections", "failed", str(error))
    detail = f"{possible} of HAR_MAX_CONNECTIONS={settings.max_connections} (ulimit -n)"
    return Finding(
        "connections", "ok" if possible >= settings.max_connections else "warning", detail
    )


def examine_tracing(settings: Settings) -> Finding:
    """Whether spans have a way out, if there are to be any."""
    try:
        check_tracing(settings)
    except SettingsError as error:
        return Finding("tracing", "failed", str(error))
    return Finding("tracing", "ok", "on" if settings.tracing else "off")


def examine_memory(settings: Settings, available: int | None) -> Finding:
    """Whether all decoders together could use more memory than there is."""
    if available is None:
        return Finding("memory", "warning", "this system does not tell how much is available")
    shortage = describe_shortage(settings.decoders, settings.decoder_memory_bytes, available)
    if shortage:
        return Finding("memory", "warning", shortage)
    return Finding(
        "memory",
        "ok",
        f"{available / _GIBIBYTE:.1f} GiB available, {settings.decoders} decoders of at most "
        f"{settings.decoder_memory_bytes / _GIBIBYTE:.1f} GiB",
    )


def examine_spool(settings: Settings) -> Iterator[Finding]:
    """Whether uploads can be stored, and how many of the largest."""
    spool = Spool(settings.spool_dir, min_free_bytes=settings.min_spool_free_bytes)
    try:
        spool.prepare()
    except SettingsError as error:
        yield Finding("spool", "failed", str(error))
        return
    free = shutil.disk_usage(spool.folder).free
    wanted = settings.max_in_flight * settings.max_upload_bytes
    status: Status = "ok" if free >= wanted else "warning"
    if free < settings.max_upload_bytes or not spool.has_space():
        status = "failed"
    yield Finding(
        "spool",
        status,
        f"{spool.folder}: {free / _GIBIBYTE:.1f} GiB free, up to {wanted / _GIBIBYTE:.1f} GiB used",
    )


async def examine_decoder(
    settings: Settings, write_video: Callable[[BinaryIO], None] = write_specimen
) -> Finding:
    """Whether a decoder, started and confined as in the service, decodes a clip made here."""
    defaults = {name: Settings.model_fields[name].default for name in _CLIENTS_LIMITS}
    decoders = build_decoders(settings.model_copy(update=defaults), Metrics())
    try:
        with tempfile.TemporaryFile() as file:
            write_video(cast(BinaryIO, file))
            await decoders.start()
            sampled = await decoders.decode(file, _SPECIMEN_SPEC, Deadline.after(_DECODE_TIMEOUT_S))
        wrong = find_difference(sampled.frames)
    except (ClipError, ServiceError, ForkServerError, UnexpectedError, OSError) as error:
        wrong = f"{type(error).__name__}: {error}"
    finally:
        await decoders.close()
    if wrong:
        return Finding("decoder", "failed", wrong)
    return Finding("decoder", "ok", "a clip made here is decoded and its colours are right")


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine, print, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m service.doctor",
        description="Is this machine fit to run the service as the HAR_ variables say?",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    as_json: bool = parser.parse_args(arguments).json
    findings: list[Finding] = []
    try:
        for finding in examine(load_settings()):
            findings.append(finding)
            if not as_json:
                _print_line(finding)
    except SettingsError as error:
        findings.append(Finding("settings", "failed", str(error)))
        if not as_json:
            _print_line(findings[-1])
    healthy = all(finding.status != "failed" for finding in findings)
    if as_json:
        report = {"healthy": healthy, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(report, indent=2))
    else:
        print("healthy" if healthy else "not healthy")
    return 0 if healthy else 1


def _print_line(finding: Finding) -> None:
    print(f"{finding.status:8} {finding.name}: {finding.detail}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
