"""Settings: every limit and option, read once from HAR_ variables and checked together.

docs/settings.md says what each is for; a test holds it to this module.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    Field,
    PositiveFloat,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

logger: Final = logging.getLogger(__name__)

ENV_PREFIX = "HAR_"

Device = Literal["auto", "cpu", "cuda"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["readable", "json"]

_CHECKOUT = Path(__file__).resolve().parent.parent
_CGROUP_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_MEBIBYTE = 1024 * 1024

_MOST_BATCH_SIZE = 256
#: Prometheus's own defaults end at 10 s, which a long upload passes.
LATENCY_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip

#: Their values are in no message.
_SECRET_FIELDS = frozenset({"api_keys"})
# Visible ASCII, which any client can put into a header; long enough not to be guessed.
_API_KEY = re.compile(r"[!-~]{16,}\Z")
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+\Z")


class SettingsError(ValueError):
    """Settings that cannot be used; the message has one line per fault, each with its variable."""


def count_usable_cpus(quota_file: Path = _CGROUP_CPU_QUOTA) -> int:
    """Cores this process may use: its CPU affinity, cut down to a container's quota.

    Args:
        quota_file: cgroup v2's cpu.max, "<microseconds or max> <period in microseconds>".
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    try:
        quota_us, period_us = quota_file.read_text().split()
        cpus = min(cpus, max(1, round(int(quota_us) / int(period_us))))
    except (OSError, ValueError):
        pass  # no cgroup v2 here, or "max": no quota
    return cpus


def find_models_dir() -> Path:
    """`models/` of the current directory if there is one, else that of the checkout."""
    here = Path("models")
    return here if here.is_dir() else _CHECKOUT / "models"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name other than localhost may be any."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Settings(BaseSettings):
    """Each field is the variable HAR_<FIELD>; an empty variable counts as unset."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid"
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    root_path: str | None = None
    trusted_proxies: Annotated[tuple[str, ...] | None, NoDecode] = None
    log_level: LogLevel = "info"
    log_format: LogFormat = "readable"
    tracing: bool = False
    latency_buckets_s: Annotated[tuple[PositiveFloat, ...], NoDecode] = LATENCY_BUCKETS_S

    api_keys: Annotated[tuple[SecretStr, ...] | None, NoDecode] = None
    allow_unauthenticated: bool = False

    models_dir: Path = Field(default_factory=find_models_dir)
    default_model: str | None = None
    max_versions: int | None = Field(default=None, ge=1)
    device: Device = "auto"
    intra_op_threads: int = Field(default_factory=count_usable_cpus, ge=1)
    max_batch_size: int | None = Field(default=None, ge=1, le=_MOST_BATCH_SIZE)
    batch_buckets: Annotated[tuple[int, ...] | None, NoDecode] = None
    cuda_graphs: bool = False
    gpu_memory_bytes: int | None = Field(default=None, ge=64 * _MEBIBYTE)

    spool_dir: Path | None = None
    min_spool_free_bytes: int = Field(default=256 * _MEBIBYTE, ge=0)
    max_upload_bytes: int = Field(default=100 * _MEBIBYTE, ge=1)
    min_upload_bytes_per_s: int = Field(default=4096, ge=0)
    upload_idle_timeout_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    header_timeout_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    max_connections: int = Field(default=2048, ge=1)

    max_in_flight: int = Field(default=32, ge=1)
    max_waiting: int = Field(default=64, ge=0)
    request_timeout_s: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    shutdown_grace_s: int = Field(default=20, ge=0)

    decoders: int = Field(default_factory=count_usable_cpus, ge=1)
    decoder_memory_bytes: int = Field(default=1024 * _MEBIBYTE, ge=64 * _MEBIBYTE)
    decoder_max_jobs: int = Field(default=200, ge=1)
    decode_timeout_s: float = Field(default=20.0, gt=0, allow_inf_nan=False)
    max_pixels: int = Field(default=4096 * 2304, ge=1)
    max_frames: int = Field(default=36_000, ge=1)
    max_duration_s: float = Field(default=1_200.0, gt=0, allow_inf_nan=False)
    max_streams: int = Field(default=32, ge=1)

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        keys = [key.strip() for key in value.split(",")]
        if not all(_API_KEY.match(key) for key in keys):
            raise ValueError(
                "keys are separated by commas, each of at least 16 visible ASCII characters"
            )
        return keys

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, path: str | None) -> str | None:
        if path is not None and not _ROOT_PATH.match(path):
            raise ValueError("a path begins with /, does not end with one, and needs no escapes")
        return path

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split_proxies(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        # Refuses what is neither: uvicorn would take it for a name, which no peer ever has.
        return [str(ip_network(proxy.strip())) for proxy in value.split(",")]

    @field_validator("latency_buckets_s", "batch_buckets", mode="before")
    @classmethod
    def _split_numbers(cls, value: object) -> object:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("latency_buckets_s")
    @classmethod
    def _check_latency_buckets(cls, buckets: tuple[float, ...]) -> tuple[float, ...]:
        if list(buckets) != sorted(set(buckets)) or not buckets or buckets[-1] == math.inf:
            raise ValueError("buckets are seconds, separated by commas, each larger than the last")
        return buckets

    @model_validator(mode="after")
    def _check_batch_buckets(self) -> Self:
        sizes = self.batch_buckets
        if sizes is not None and (
            not sizes
            or sizes[0] < 1
            or sizes[-1] != (self.max_batch_size or sizes[-1])
            or list(sizes) != sorted({*sizes})
        ):
            raise ValueError(
                "HAR_BATCH_BUCKETS must be ascending sizes of which the last is "
                f"HAR_MAX_BATCH_SIZE ({self.max_batch_size or 'unset'})"
            )
        if sizes is not None and sizes[-1] > _MOST_BATCH_SIZE:
            raise ValueError(f"HAR_BATCH_BUCKETS must not exceed {_MOST_BATCH_SIZE}")
        return self

    @model_validator(mode="after")
    def _check_access(self) -> Self:
        if not (is_loopback(self.host) or self.api_keys or self.allow_unauthenticated):
            raise ValueError(
                f"HAR_HOST={self.host} may be reached from other machines: set HAR_API_KEYS, or "
                "HAR_ALLOW_UNAUTHENTICATED=1 if whoever can reach it may use it"
            )
        return self

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.decode_timeout_s > self.request_timeout_s:
            raise ValueError(
                f"HAR_DECODE_TIMEOUT_S ({self.decode_timeout_s:g}) must not exceed "
                f"HAR_REQUEST_TIMEOUT_S ({self.request_timeout_s:g})"
            )
        largest = self.batch_buckets[-1] if self.batch_buckets else self.max_batch_size or 1
        if largest > self.max_in_flight:
            name = "HAR_BATCH_BUCKETS" if self.batch_buckets else "HAR_MAX_BATCH_SIZE"
            raise ValueError(
                f"{name} ({largest}) must not exceed "
                f"HAR_MAX_IN_FLIGHT ({self.max_in_flight}): such a batch could never fill"
            )
        return self


def load_settings(**values: Any) -> Settings:
    """Read the settings from the environment.

    Args:
        **values: fields that are what the caller says, whatever the environment says.

    Raises:
        SettingsError: a value is malformed, out of range or contradicts another.
    """
    try:
        return Settings(**values)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            message = fault["msg"].removeprefix("Value error, ")
            if fault["loc"]:
                variable = ENV_PREFIX + str(fault["loc"][0]).upper()
                secret = fault["loc"][0] in _SECRET_FIELDS
                shown = variable if secret else f"{variable}={fault['input']}"
                message = f"{shown}: {message}"
            lines.append(message)
        raise SettingsError("\n".join(lines)) from error


def warn_of_unknown_variables(variables: Mapping[str, str] = os.environ) -> None:
    """Log a warning if there are HAR_ variables that are no settings: a slip would go unnoticed.

    They do not end a start: Kubernetes sets some for a Service that is called `har`.
    """
    unknown = find_unknown_variables(variables)
    if unknown:
        logger.warning("no such setting: %s", ", ".join(unknown))


def find_unknown_variables(variables: Mapping[str, str] = os.environ) -> list[str]:
    """The HAR_ variables that are no settings, each with what it may have been meant to be."""
    known = [ENV_PREFIX + name.upper() for name in Settings.model_fields]
    return [
        _suggest(name, known)
        for name in sorted(variables)
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known
    ]


def _suggest(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name.upper(), known, n=1)
    return f"{name} ({near[0]}?)" if near else name
