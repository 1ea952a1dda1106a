"""docs/deploy.md: what it names is there, and it says what docker/nginx/ does."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "deploy.md"
TEXT = PAGE.read_text(encoding="utf-8")
NGINX = ROOT / "docker" / "nginx"
#: Folders of the repository whose files the page names; models/, runs/ and certs/ are the reader's.
FOLDERS = ("benchmarks", "clip", "docker", "docs", "service", "tests", "training")


class ComposeLoader(yaml.SafeLoader):
    """Knows Compose's own tags, which say how files are merged."""


ComposeLoader.add_multi_constructor(
    "!", lambda loader, suffix, node: loader.construct_sequence(node)
)


def compose_files() -> dict[str, dict[str, dict[str, object]]]:
    """The services of each docker-compose file, by the file's name."""
    return {
        path.name: yaml.load(path.read_text(encoding="utf-8"), ComposeLoader)["services"]
        for path in ROOT.glob("docker-compose*.yml")
    }


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_file_that_is_named_exists() -> None:
    words = set(re.findall(r"[\w.-]+(?:/[\w.-]+)*/?", TEXT))
    named = {word.rstrip(".") for word in words if word.split("/")[0] in FOLDERS and "/" in word}
    named |= {
        word.rstrip(".") for word in words if re.match(r"docker-compose.*\.yml|\.env\.", word)
    }
    # The folder as it is called where nginx runs.
    named |= {word.replace("har/", "docker/nginx/") for word in words if re.match(r"har/s", word)}
    assert {"docker/nginx/", "docker/nginx/site.conf", "docker-compose.yml"} <= named
    assert not {word for word in named if not (ROOT / word).exists()}


def test_every_link_leads_to_a_page_and_its_heading() -> None:
    links = re.findall(r"\]\(([\w./-]+)(?:#([\w-]+))?\)", TEXT)
    assert links
    for file, heading in links:
        text = (PAGE.parent / file).read_text(encoding="utf-8")
        headings = {anchor(found) for found in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
        assert not heading or heading in headings, heading


def test_every_variable_is_a_setting_or_one_of_composes() -> None:
    own = {f"HAR_{name.upper()}" for name in Settings.model_fields}
    composes = set(re.findall(r"^(HAR_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert set(re.findall(r"HAR_[A-Z_]+[A-Z]", TEXT)) <= own | composes


def test_every_command_is_there() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make (\w+)", TEXT)) <= set(targets)
    for module in set(re.findall(r"python -m ([\w.]+)", TEXT)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    services = compose_files()["docker-compose.yml"]
    commands = (
        r"docker compose (?:-f \S+ )*(?:build|exec|logs|kill|run)(?: --[\w-]+(?: HUP)?)*\s+(\w+)"
    )
    named = set(re.findall(commands, TEXT))
    assert {"service", "proxy"} <= named
    assert named <= set(services)


def test_every_metric_is_documented() -> None:
    metrics = (PAGE.parent / "metrics.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bhar_(?!service\b)[a-z_]+", TEXT))
    assert named
    assert not {name for name in named if f"`{name}`" not in metrics}


def test_the_limits_are_the_proxys() -> None:
    conf = "".join(path.read_text(encoding="utf-8") for path in sorted(NGINX.glob("*.conf")))

    def find(pattern: str) -> set[str]:
        return set(re.findall(pattern, conf))

    (clips,) = find(r"zone=har_predict:\S+ rate=(\d+)r/s")
    (others,) = find(r"zone=har_pages:\S+ rate=(\d+)r/s")
    (burst,) = find(r"zone=har_predict burst=(\d+)")
    (requests,) = find(r"limit_conn har_client (\d+)")
    assert f"{clips} clips a second ({burst} at once), {others} other requests a second" in TEXT
    assert f"{requests} requests under way" in TEXT
    (body,) = find(r"client_max_body_size (\d+)m")
    assert f"Above {body} MiB" in TEXT
    (headers,) = find(r"client_header_timeout (\d+)s")
    (pause,) = find(r"client_body_timeout (\d+)s")
    assert f"Headers within {headers} s; no pause of {pause} s" in TEXT
    (row,) = (line for line in TEXT.splitlines() if line.startswith("| problems"))
    codes = find(r'"code":"(\w+)"') - {"internal_error"}
    assert codes <= set(re.findall(r"`(\w+)`", row))


def test_the_compose_file_for_tls_mounts_what_is_here_into_a_service_that_is_there() -> None:
    files = compose_files()
    tls = files["docker-compose.tls.yml"]
    assert set(tls) <= set(files["docker-compose.yml"])
    volumes = tls["proxy"]["volumes"]
    assert isinstance(volumes, list)
    sources = [one["source"] if isinstance(one, dict) else one.split(":")[0] for one in volumes]
    assert "./docker/nginx/site.conf:/etc/nginx/site.conf:ro" in volumes
    plain = files["docker-compose.yml"]["proxy"]["volumes"]
    assert isinstance(plain, list)
    assert "./docker/nginx/site-plain.conf:/etc/nginx/site.conf:ro" in plain
    # The certificate is the reader's.
    assert not {one for one in sources if one != "./certs" and not (ROOT / one).exists()}
    conf = (NGINX / "site.conf").read_text(encoding="utf-8")
    wanted = set(re.findall(r"^    listen (\d+)", conf, re.MULTILINE))
    published = tls["proxy"]["ports"]
    assert isinstance(published, list)
    assert {port.split(":")[1] for port in published} == wanted


def read_rows(text: str, cells: int) -> list[list[str]]:
    """The tables' rows of so many cells."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows if len(row) == cells]


def test_the_sums_are_about_what_was_measured() -> None:
    report = (ROOT / "benchmarks" / "reports" / "sizing.md").read_text(encoding="utf-8")
    clips = {"320x240": "small", "1080p": "large"}
    measured = [row for row in read_rows(report, 7) if row[1] in clips]
    told = [row for row in read_rows(TEXT, 7) if row[1] in clips.values()]
    assert len(told) == len(measured) == 6
    for (model, clip, decoding, _, network, total, rate), row in zip(measured, told, strict=True):
        four_cores = f"{4 * 0.7 * 1000 / int(total):.1f}"
        assert row == [f"`{model}`", clips[clip], decoding, network, total, rate, four_cores]
    (memory,) = (row for row in read_rows(report, 7) if row[0] == "all of them")
    (service,) = (row for row in read_rows(TEXT, 2) if row[0] == "service with all three models")
    assert re.findall(r"(\d+) MiB", service[1]) == [memory[3], memory[1]]
