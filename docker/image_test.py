"""Build the service's image without Docker and see it answer a clip.

    make image-test      (as root, on Debian)
    python docker/image_test.py [--clip FILE] [--variant cpu|gpu] [--base IMAGE] [--work FOLDER]

It wants Debian's packages buildah, debootstrap, podman and runc, a few GB and some minutes.
Without --base it makes one: Debian 13 by debootstrap, with the Python 3.13 of the Dockerfile's own
base. Then:

 1. buildah builds docker/service.Dockerfile, in a chroot.
 2. What is in the image is looked at: its size, whether every version is in constraints.txt, one
    ONNX Runtime, no TensorFlow, no compiler.
 3. podman runs it as docker-compose.yml says: the same user, read-only root, spool, limits and
    settings, without any network. It has to turn ready by its own HEALTHCHECK, answer the clip as
    this checkout does, and end with 0 at SIGTERM.

The settings of pip (index, proxy, certificates) are the caller's, mounted for the build; none
gets into the image.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
SUITE = "trixie"
READY_TIMEOUT_S = 300
MODEL = "lrcn"
TOLERANCE = 1e-4  # between builds of ONNX Runtime
#: No network. Podman's own limits are above what a root without all privileges may set.
APART = ["--network=none", "--ulimit=nofile=16384:16384", "--ulimit=nproc=16384:16384"]

_POST = f"""
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=120)
connection.request(
    "POST", "/predict?model={MODEL}", sys.stdin.buffer.read(), {{"Content-Type": "video/mp4"}}
)
answer = connection.getresponse()
print(answer.read().decode())
sys.exit(answer.status != 200)
"""
_LIST = """
import json
from importlib.metadata import distributions
print(json.dumps({d.metadata["Name"]: d.version for d in distributions()}))
"""


def run(*words: str | Path, stdin: bytes | None = None, quiet: bool = True) -> str:
    """Run a command; its output. Ends the test with the command's own words if it fails."""
    done = subprocess.run([*map(str, words)], input=stdin, capture_output=quiet, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace") if quiet else ""
        sys.exit(f"{said}\nfailed with {done.returncode}: {' '.join(map(str, words))}")
    return done.stdout.decode() if quiet else ""


def expect(fact: bool, promise: str) -> None:
    """Tell that a promise is kept, or end the test."""
    if not fact:
        sys.exit(f"BROKEN: {promise}")
    print(f"ok: {promise}", flush=True)


class Workshop:
    """buildah and podman with images and containers in a folder of their own."""

    def __init__(self, folder: Path, storage_driver: str) -> None:
        self.folder = folder
        storage = ["--root", folder / "images", "--runroot", folder / "run"]
        storage += ["--storage-driver", storage_driver]
        self.buildah = ["buildah", *storage]
        # crun knows no cgroups v1 beside v2; without systemd, podman has to write cgroups itself.
        self.podman = ["podman", *storage, "--runtime", "runc", "--cgroup-manager", "cgroupfs"]

    def has_image(self, name: str) -> bool:
        """Whether an image is there already."""
        return not subprocess.run(
            [*map(str, self.buildah), "inspect", name], capture_output=True, check=False
        ).returncode

    def make_bases(self) -> tuple[str, str]:
        """Debian with Python as the base, and the same with pip for the stage that builds."""
        base, build_base = "localhost/har-base", "localhost/har-build-base"
        if not self.has_image(base):
            tree = self.folder / "debian"
            if not (tree / "usr/bin/python3").exists():
                print(f"debootstrap {SUITE} ...", flush=True)
                include = "--include=python3,ca-certificates"
                run("debootstrap", "--variant=minbase", include, SUITE, tree)
                # As the official slim images have it.
                for unused in (
                    "usr/share/doc",
                    "usr/share/man",
                    "usr/share/locale",
                    "var/lib/apt/lists",
                    "var/cache/apt",
                ):
                    shutil.rmtree(tree / unused)
                    (tree / unused).mkdir()
            container = run(*self.buildah, "from", "scratch").strip()
            run(*self.buildah, "add", "--quiet", container, tree, "/")
            run(*self.buildah, "commit", "--quiet", "--rm", container, base)
        if not self.has_image(build_base):
            container = run(*self.buildah, "from", base).strip()
            install = "apt-get update && apt-get install --yes --no-install-recommends python3-pip"
            run(
                *self.buildah,
                "run",
                "--isolation",
                "chroot",
                "--network",
                "host",
                container,
                "--",
                "sh",
                "-c",
                install,
            )
            run(*self.buildah, "commit", "--quiet", "--rm", container, build_base)
        return base, build_base

    def build(self, image: str, base: str, build_base: str, variant: str) -> None:
        """Build with the caller's settings of pip."""
        words: list[str | Path] = [
            *self.buildah,
            "build",
            "--isolation",
            "chroot",
            "--network",
            "host",
            "--layers",
        ]
        words += ["--format", "docker"]  # the OCI's has no HEALTHCHECK
        for mount in self._pip_mounts():
            words += ["--volume", mount]
        words += ["--build-arg", f"BASE={base}", "--build-arg", f"BUILD_BASE={build_base}"]
        words += [
            "--build-arg",
            f"VARIANT={variant}",
            "--file",
            ROOT / "docker/service.Dockerfile",
            "--tag",
            image,
            ROOT,
        ]
        run(*words)

    def _pip_mounts(self) -> list[str]:
        settings = {}
        for line in run(sys.executable, "-m", "pip", "config", "list").splitlines():
            name, _, value = line.partition("=")
            option = name.rpartition(".")[2]
            if option in {
                "index-url",
                "extra-index-url",
                "trusted-host",
                "cert",
                "proxy",
                "timeout",
            }:
                settings[option] = " ".join(
                    word for word in value.strip("'").split() if not word.startswith("file:")
                )
        config = self.folder / "pip.conf"
        config.write_text(
            "[global]\n"
            + "".join(f"{option} = {value}\n" for option, value in settings.items() if value)
        )
        mounts = [f"{config}:/etc/pip.conf:ro"]
        if "cert" in settings:
            mounts.append(f"{settings['cert']}:{settings['cert']}:ro")
        return mounts


def look_inside(workshop: Workshop, image: str, variant: str) -> None:
    """Step 2: the image's size and contents."""
    inside = [*workshop.podman, "run", "--rm", "--no-healthcheck", *APART, image]
    size = int(run(*workshop.podman, "image", "inspect", "--format", "{{.Size}}", image))
    print(f"size of the image: {size / 1e6:.0f} MB. The largest parts, in MB:")
    folders = run(
        *inside,
        "sh",
        "-c",
        "du -xsm /usr /opt/venv /app; du -sm /opt/venv/lib/*/site-packages/* | sort -rn | head",
    )
    print(re.sub(r"/opt/venv/\S+/", "  ", folders), end="")

    installed = {
        name.lower().replace("_", "-"): version
        for name, version in json.loads(run(*inside, "python", "-c", _LIST)).items()
    }
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    own = {
        name: version
        for name, version in installed.items()
        if name in pins or name != "har-service"
    }
    loose = {name: version for name, version in own.items() if pins.get(name) != version}
    expect(
        not loose,
        f"constraints.txt has all {len(own)} installed versions"
        + (f", but not {loose}" if loose else ""),
    )
    runtimes = {name for name in installed if name.startswith("onnxruntime")}
    expect(
        runtimes == {"onnxruntime-gpu" if variant == "gpu" else "onnxruntime"},
        f"one ONNX Runtime: {runtimes}",
    )
    unwanted = run(
        *inside,
        "sh",
        "-c",
        "for tool in gcc cc c++ clang ld as make; do command -v $tool; done; "
        "find / -xdev -name 'tensorflow*' -o -xdev -name keras; true",
    )
    expect(not unwanted, f"no compiler, no TensorFlow {unwanted}")


def confine(service: dict) -> list[str]:  # type: ignore[type-arg] - as YAML has it
    """The options of podman for what docker-compose.yml says of the service."""
    # Without systemd nobody would ask for the health; this program does.
    options = [*APART, "--read-only", "--read-only-tmpfs=false", "--health-interval", "disable"]
    expect(service["read_only"], "compose: the root is read-only")
    options += [f"--cap-drop={capability}" for capability in service["cap_drop"]]
    options += [f"--security-opt={option.split(':')[0]}" for option in service["security_opt"]]
    options += ["--pids-limit", str(service["pids_limit"]), "--memory", service["mem_limit"]]
    for name, value in service["environment"].items():
        options += ["--env", f"{name}={'' if '${' in value else value}"]
    for volume in service["volumes"]:
        if volume["type"] == "tmpfs":
            options += [
                "--tmpfs",
                f"{volume['target']}:size={volume['tmpfs']['size']},noexec,nosuid,nodev",
            ]
        else:
            options += ["--volume", f"{ROOT / volume['source']}:{volume['target']}:ro"]
    return options


def see_it_answer(workshop: Workshop, image: str, clip: Path) -> None:
    """Step 3: as docker-compose.yml runs it."""
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["service"]
    container = run(*workshop.podman, "run", "--detach", *confine(service), image).strip()
    try:
        started = time.monotonic()
        healthcheck = [*map(str, workshop.podman), "healthcheck", "run", container]
        while subprocess.run(healthcheck, capture_output=True, check=False).returncode:
            if time.monotonic() - started > READY_TIMEOUT_S:
                sys.exit(f"not ready\n{run(*workshop.podman, 'logs', container)}")
            time.sleep(1)
        expect(True, f"ready by its HEALTHCHECK after {time.monotonic() - started:.0f} s")

        within = [*workshop.podman, "exec", "--interactive", container]
        answer = json.loads(run(*within, "python", "-IS", "-c", _POST, stdin=clip.read_bytes()))
        print(
            json.dumps(
                {name: answer[name] for name in ("model", "label", "probability", "timings_ms")}
            )
        )
        [expected] = map(
            json.loads,
            run(
                sys.executable, "-m", "service.classify", "--json", "--model", MODEL, clip
            ).splitlines(),
        )
        differences = [
            abs(answer["probabilities"][name] - value)
            for name, value in expected["probabilities"].items()
        ]
        expect(
            max(differences) < TOLERANCE,
            f"the answer is this checkout's, to {max(differences):.1e}",
        )

        status = dict(
            line.split(":\t", 1)
            for line in run(*within, "cat", "/proc/1/status").splitlines()
            if ":\t" in line
        )
        seen = [
            status[name].split()[0] for name in ("Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")
        ]
        expect(
            seen == ["10001", "0" * 16, "0" * 16, "1", "2"],
            f"user, capabilities, no new privileges, seccomp: {seen}",
        )
        written = run(
            *within,
            "sh",
            "-c",
            "for f in /x /app/x /models/x /tmp/x; do touch $f 2>/dev/null && echo $f; done; true",
        )
        expect(not written, f"no file can be written but in the spool {written}")
        print(run(*within, "df", "-h", "/spool"), end="")
        print(
            run(
                *workshop.podman,
                "stats",
                "--no-stream",
                "--format",
                "memory {{.MemUsage}}, processes and threads {{.PIDs}}",
                container,
            ),
            end="",
        )

        print(run(*within, "python", "-m", "service.doctor"), end="")
        expect(True, "service.doctor finds it healthy")

        grace_s = service["stop_grace_period"].removesuffix("s")
        run(*workshop.podman, "stop", "--time", grace_s, container)
        code = run(
            *workshop.podman, "inspect", "--format", "{{.State.ExitCode}}", container
        ).strip()
        expect(code == "0", f"SIGTERM ends it with {code}")
        logged = run(*workshop.podman, "logs", container)
        expect("elemetry" not in logged, "ONNX Runtime's telemetry is off")
    finally:
        subprocess.run(
            [*map(str, workshop.podman), "rm", "--force", container],
            capture_output=True,
            check=False,
        )


def find_clip() -> Path | None:
    """A real clip where the tests look for them too."""
    shared = Path(os.environ.get("HAR_SHARED", ROOT.parent / "shared"))
    return next(iter(sorted(shared.glob("clips/*/*.mp4"))), None)


def main() -> None:
    """Parse the command line and go through the steps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clip", type=Path, default=find_clip())
    parser.add_argument("--variant", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument(
        "--base", help="image with Python and pip, instead of one made by debootstrap"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "image-test")
    parser.add_argument(
        "--storage-driver", default="overlay", help="vfs where overlay cannot be had"
    )
    options = parser.parse_args()
    missing = [
        tool for tool in ("buildah", "debootstrap", "podman", "runc") if not shutil.which(tool)
    ]
    if missing:
        sys.exit(f"missing: {', '.join(missing)} (Debian's packages of that name)")
    if options.clip is None:
        sys.exit("no clip: name one with --clip")
    options.work.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(options.work.resolve(), options.storage_driver)
    base, build_base = (options.base, options.base) if options.base else workshop.make_bases()
    image = f"localhost/har-service:{options.variant}"
    workshop.build(image, base, build_base, options.variant)
    expect(True, f"built {image}")
    look_inside(workshop, image, options.variant)
    see_it_answer(workshop, image, options.clip)


if __name__ == "__main__":
    main()
