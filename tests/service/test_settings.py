"""Settings: what may be set, what is refused, and in which words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.settings import (
    SettingsError,
    count_usable_cpus,
    find_models_dir,
    load_settings,
    warn_of_unknown_variables,
)


def test_the_defaults_are_valid_and_listen_on_the_loopback_only() -> None:
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.device == "auto"


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("HAR_PORT", "8080", 8080),
        ("HAR_MODELS_DIR", "/srv/models", Path("/srv/models")),
        ("HAR_DEVICE", "cuda", "cuda"),
        ("HAR_ROOT_PATH", "/video/har", "/video/har"),
        ("HAR_TRUSTED_PROXIES", "10.0.0.7, fd00::/8", ("10.0.0.7/32", "fd00::/8")),
        ("HAR_DEFAULT_MODEL", "convlstm", "convlstm"),
        ("HAR_REQUEST_TIMEOUT_S", "90.5", 90.5),
        ("HAR_MAX_UPLOAD_BYTES", "1000", 1000),
        ("HAR_LATENCY_BUCKETS_S", "0.1, 0.5,2", (0.1, 0.5, 2.0)),
    ],
)
def test_a_variable_sets_its_field(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, value: object
) -> None:
    monkeypatch.setenv(variable, text)
    assert getattr(load_settings(), variable.removeprefix("HAR_").lower()) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("HAR_PORT", "65536"),
        ("HAR_PORT", "tcp://10.0.0.1:8000"),
        ("HAR_DEVICE", "tpu"),
        ("HAR_LOG_LEVEL", "loud"),
        ("HAR_DECODERS", "0"),
        ("HAR_INTRA_OP_THREADS", "-1"),
        ("HAR_MAX_UPLOAD_BYTES", "many"),
        ("HAR_MAX_WAITING", "-1"),
        ("HAR_REQUEST_TIMEOUT_S", "nan"),
        ("HAR_REQUEST_TIMEOUT_S", "inf"),
        ("HAR_DECODE_TIMEOUT_S", "0"),
        ("HAR_LOG_FORMAT", "xml"),
        ("HAR_LATENCY_BUCKETS_S", "1,0.5"),
        ("HAR_LATENCY_BUCKETS_S", "1,1"),
        ("HAR_LATENCY_BUCKETS_S", "0"),
        ("HAR_LATENCY_BUCKETS_S", "1,inf"),
        ("HAR_LATENCY_BUCKETS_S", "fast"),
        ("HAR_MAX_CONNECTIONS", "0"),
        ("HAR_ROOT_PATH", "har"),
        ("HAR_ROOT_PATH", "/"),
        ("HAR_ROOT_PATH", "/har/"),
        ("HAR_ROOT_PATH", "/a b"),
        ("HAR_TRUSTED_PROXIES", "*"),
        ("HAR_TRUSTED_PROXIES", "proxy"),
        ("HAR_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("HAR_TRUSTED_PROXIES", "10.0.0.1,"),
    ],
)
def test_a_bad_value_is_refused_with_its_variable_and_the_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert str(refused.value).startswith(f"{variable}={text}: ")


def test_all_bad_values_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAR_PORT", "x")
    monkeypatch.setenv("HAR_DECODERS", "y")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    first, second = str(refused.value).splitlines()
    assert "HAR_PORT=x" in first
    assert "HAR_DECODERS=y" in second


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"HAR_DECODE_TIMEOUT_S": "31", "HAR_REQUEST_TIMEOUT_S": "30"},
            "HAR_DECODE_TIMEOUT_S (31) must not exceed HAR_REQUEST_TIMEOUT_S (30)",
        ),
        (
            {"HAR_MAX_BATCH_SIZE": "8", "HAR_MAX_IN_FLIGHT": "4"},
            "HAR_MAX_BATCH_SIZE (8) must not exceed HAR_MAX_IN_FLIGHT (4)",
        ),
    ],
)
def test_values_at_odds_with_each_other_are_refused_naming_both(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], named: str
) -> None:
    for variable, text in changes.items():
        monkeypatch.setenv(variable, text)
    with pytest.raises(SettingsError, match=named.replace("(", r"\(").replace(")", r"\)")):
        load_settings()


def test_batch_buckets_are_ascending_sizes_up_to_the_largest_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HAR_BATCH_BUCKETS", "1, 4,8")
    assert load_settings().batch_buckets == (1, 4, 8)
    monkeypatch.setenv("HAR_MAX_BATCH_SIZE", "8")
    for text in ("8,4", "1,4", "0,8", "4,4,8", "1,16"):
        monkeypatch.setenv("HAR_BATCH_BUCKETS", text)
        with pytest.raises(SettingsError, match=r"HAR_BATCH_BUCKETS .*HAR_MAX_BATCH_SIZE \(8\)"):
            load_settings()
    monkeypatch.delenv("HAR_MAX_BATCH_SIZE")
    monkeypatch.setenv("HAR_MAX_IN_FLIGHT", "16")
    for text, limit in (("1,17", "HAR_MAX_IN_FLIGHT (16)"), ("1,100000", "256")):
        monkeypatch.setenv("HAR_BATCH_BUCKETS", text)
        with pytest.raises(SettingsError, match=f"HAR_BATCH_BUCKETS .*{re.escape(limit)}"):
            load_settings()
    monkeypatch.setenv("HAR_BATCH_BUCKETS", "1,two")
    with pytest.raises(SettingsError, match="HAR_BATCH_BUCKETS=two: "):
        load_settings()


KEYS = "correct-horse-battery", "staple-0123456789"


def test_keys_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAR_API_KEYS", " , ".join(KEYS))
    keys = load_settings().api_keys
    assert keys is not None
    assert tuple(key.get_secret_value() for key in keys) == KEYS


@pytest.mark.parametrize("text", ["short-secret", f"{KEYS[0]},", f"{KEYS[0]},two words are no key"])
def test_f23_a_bad_key_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("HAR_API_KEYS", text)
    with pytest.raises(SettingsError, match=r"\AHAR_API_KEYS: keys are separated") as refused:
        load_settings()
    assert not any(word in str(refused.value) for word in ("secret", KEYS[0], "words"))


def test_f23_keys_are_not_in_what_is_printed_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAR_API_KEYS", ",".join(KEYS))
    settings = load_settings()
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert not any(key in text for key in KEYS)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_f24_an_address_for_others_needs_keys_or_a_word_that_it_does_not(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("HAR_HOST", host)
    with pytest.raises(SettingsError, match=f"HAR_HOST={host} .*HAR_ALLOW_UNAUTHENTICATED=1"):
        load_settings()
    monkeypatch.setenv("HAR_ALLOW_UNAUTHENTICATED", "1")
    assert load_settings().host == host
    monkeypatch.delenv("HAR_ALLOW_UNAUTHENTICATED")
    monkeypatch.setenv("HAR_API_KEYS", KEYS[0])
    assert load_settings().host == host


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "::1"])
def test_an_address_of_this_machine_alone_needs_no_keys(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("HAR_HOST", host)
    assert load_settings().host == host


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAR_DEFAULT_MODEL", "")
    monkeypatch.setenv("HAR_PORT", "")
    settings = load_settings()
    assert settings.default_model is None
    assert settings.port == 8000


@pytest.mark.parametrize(
    ("quota", "cpus"), [("100000 100000", 1), ("150000 100000", 2), ("1000 100000", 1)]
)
def test_a_containers_cpu_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cpus: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    file = tmp_path / "cpu.max"
    file.write_text(quota + "\n")
    assert count_usable_cpus(file) == cpus


def test_without_a_quota_the_affinity_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)))
    file = tmp_path / "cpu.max"
    assert count_usable_cpus(file) == 6
    file.write_text("max 100000\n")
    assert count_usable_cpus(file) == 6


def test_models_of_the_current_directory_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_models_dir().is_absolute()
    (tmp_path / "models").mkdir()
    assert find_models_dir() == Path("models")


def test_variables_that_are_no_settings_are_told_with_what_they_may_mean(caplog) -> None:
    variables = {
        "HAR_API_KEY": "never-to-be-seen",
        "har_decoder": "3",
        "HAR_PORT_8000_TCP_PROTO": "tcp",
        "HAR_LOG_LEVEL": "info",
        "har_port": "0",
        "PATH": "/bin",
    }
    warn_of_unknown_variables(variables)
    (record,) = caplog.records
    assert record.getMessage() == (
        "no such setting: HAR_API_KEY (HAR_API_KEYS?), HAR_PORT_8000_TCP_PROTO, "
        "har_decoder (HAR_DECODERS?)"
    )
    caplog.clear()
    warn_of_unknown_variables({"HAR_PORT": "0"})
    assert not caplog.records
