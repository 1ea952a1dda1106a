"""Memory and answers over many mixed requests: python -m benchmarks.soak [--requests 10000].

Starts the service with a model that tells clips apart by their colours and sends it, 16 at a time:
good clips of five containers, files that are no videos, damaged, oversized and slow ones, clients
that hang up in the midst of an upload or of the decoding, and, where a decoder can be killed, kills
it. Every good answer is compared with that clip's first one. What the service holds before, on the
way and after is written to benchmarks/reports/soak.md. Ends with an error if an answer was wrong or
something was not given back. About five minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.colour_model import publish_colour_model
from benchmarks.report import environment, write_report
from benchmarks.service_process import ServiceProcess, resident_mebibytes, running_service
from tests.drawing import Drawing
from tests.mutants import mutate

CLIENTS = 16
SAMPLES = 10
MAX_UPLOAD_BYTES = 1024 * 1024
REQUEST_TIMEOUT_S = 60.0
#: Requests to warm up with, ahead of the first measurement: memory grows to its working size.
WARM_UP = 500
#: The service may hold so much more after the last request than after the warm-up.
MOST_GROWTH_MEBIBYTES = 30.0

CLIPS: Mapping[str, Drawing] = {
    "mp4": Drawing(".mp4", "libx264", frames=50, options={"bf": "2"}),
    "avi": Drawing(".avi", "mpeg4", frames=31, height=48, width=64),
    "mkv": Drawing(".mkv", "libx264", frames=11, height=240, width=320),
    "webm": Drawing(".webm", "libvpx-vp9", frames=24, height=72, width=96),
    "ts": Drawing(".ts", "mpeg2video", frames=80, options={"g": "12"}),
}
#: Kind of request -> how often among the others.
MIX: Mapping[str, int] = {
    "good": 60,
    "no video": 6,
    "damaged": 12,
    "oversized": 3,
    "slow": 4,
    "leaves while uploading": 5,
    "leaves while decoding": 5,
    "malformed form": 3,
    "unknown model": 2,
}
#: A decoder is killed so often, in requests.
KILL_EVERY = 100


@dataclass(frozen=True, slots=True)
class Holding:
    """What the service holds at one moment; memory in MiB, proportional shares."""

    requests: int
    service_mebibytes: float
    children_mebibytes: float
    children: int
    open_files: int
    threads: int


@dataclass(slots=True)
class Soak:
    """The clients of one run and what they saw."""

    service: ServiceProcess
    clips: Mapping[str, bytes]
    client: httpx.AsyncClient
    wanted: dict[str, object] = field(default_factory=dict)
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    kills: int = 0

    async def learn(self) -> None:
        """Ask once for every clip, one after another: what is answered later has to be the same."""
        for name in self.clips:
            response = await self._post(self.clips[name])
            self.wanted[name] = self._facts(response)
        told = {repr(facts) for facts in self.wanted.values()}
        assert len(told) == len(self.clips), "clips that cannot be told apart prove nothing"

    async def send(self, number: int) -> None:
        """One request; which one is in its number."""
        rng = random.Random(number)
        (kind,) = rng.choices([*MIX], [*MIX.values()])
        name = rng.choice([*self.clips])
        if number % KILL_EVERY == KILL_EVERY - 1:
            self._kill_decoder(rng)
        match kind:
            case "good":
                outcome = await self._send_good(name)
            case "slow":
                outcome = self._check(name, await self._post(self._trickle(name)))
            case "leaves while uploading" | "leaves while decoding":
                outcome = await self._leave(kind, self.clips[name], rng)
            case _:
                outcome = str((await self._send_bad(kind, name, rng)).status_code)
        self.answers[kind, outcome] += 1
        if outcome.startswith("5"):
            self.wrong.append(f"request {number} ({kind}, {name}): {outcome}")

    async def _send_good(self, name: str) -> str:
        response = await self.client.post(
            "/predict", files={"file": ("clip", self.clips[name], "video/mp4")}
        )
        return self._check(name, response)

    def _check(self, name: str, response: httpx.Response) -> str:
        """The status; an answer that is another clip's, or changed, is noted."""
        if response.status_code != 200:
            # Its decoder was killed from outside: the one thing that may befall a good clip.
            code = response.json()["code"]
            if code != "decoder_crashed":
                self.wrong.append(f"{name}: {response.status_code} {code}")
            return f"{response.status_code} {code}"
        if self._facts(response) != self.wanted[name]:
            self.wrong.append(f"{name}: another answer: {response.text}")
        return "200"

    async def _send_bad(self, kind: str, name: str, rng: random.Random) -> httpx.Response:
        clip = self.clips[name]
        match kind:
            case "no video":
                return await self._post(rng.randbytes(4000).replace(b"\0", b"\1"))
            case "damaged":
                return await self._post(mutate(clip, rng.randrange(10**6)))
            case "oversized":
                return await self._post(clip.ljust(MAX_UPLOAD_BYTES + 1, b"\0"))
            case "malformed form":
                headers = {"Content-Type": "multipart/form-data; boundary=b"}
                body = b"--b\r\nContent-Disposition: form-data\r\n\r\n" + clip
                return await self.client.post("/predict", content=body, headers=headers)
            case "unknown model":
                return await self.client.post("/predict?model=none", content=clip)
        raise ValueError(kind)

    async def _post(self, content: object) -> httpx.Response:
        headers = {"Content-Type": "video/mp4"}
        return await self.client.post("/predict", content=content, headers=headers)  # type: ignore[arg-type]

    async def _trickle(self, name: str):  # type: ignore[no-untyped-def]
        clip = self.clips[name]
        step = max(1, len(clip) // 8)
        for start in range(0, len(clip), step):
            yield clip[start : start + step]
            await asyncio.sleep(0.02)

    async def _leave(self, kind: str, clip: bytes, rng: random.Random) -> str:
        """Hang up: with part of the body sent, or with all of it and no answer read."""
        address = httpx.URL(self.service.url)
        assert address.port is not None
        _, writer = await asyncio.open_connection(address.host, address.port)
        sent = clip if kind == "leaves while decoding" else clip[: rng.randrange(len(clip))]
        head = (
            "POST /predict HTTP/1.1\r\nHost: soak\r\nContent-Type: video/mp4\r\n"
            f"Content-Length: {len(clip)}\r\n\r\n"
        )
        writer.write(head.encode() + sent)
        with suppress(ConnectionError):
            await writer.drain()
            await asyncio.sleep(rng.random() * 0.02)
            writer.close()
            await writer.wait_closed()
        return "no answer"

    def _kill_decoder(self, rng: random.Random) -> None:
        _, *decoders = sorted(self.service.descendants())  # the first is their parent
        if decoders:
            with suppress(ProcessLookupError):
                os.kill(rng.choice(decoders), signal.SIGKILL)
                self.kills += 1

    @staticmethod
    def _facts(response: httpx.Response) -> object:
        body = response.json()
        return body["probabilities"], body["clip"]

    async def holding(self, requests: int) -> Holding:
        """What the service holds once it has nothing to do."""
        give_up_s = time.monotonic() + REQUEST_TIMEOUT_S
        # The question itself is the one request that is left.
        while await self._in_flight() > 1 and time.monotonic() < give_up_s:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        children = self.service.descendants()
        return Holding(
            requests=requests,
            service_mebibytes=resident_mebibytes(self.service.process_id),
            children_mebibytes=sum(map(resident_mebibytes, children)),
            children=len(children),
            open_files=self.service.open_files(),
            threads=self.service.threads(),
        )

    async def _in_flight(self) -> float:
        metric = await asyncio.to_thread(self.service.metric, "har_requests_in_flight")
        return metric[""]


async def run(service: ServiceProcess, clips: Mapping[str, bytes], requests: int) -> list[str]:
    """Send the requests; the report's lines."""
    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    began_s = time.monotonic()
    async with httpx.AsyncClient(
        base_url=service.url, timeout=REQUEST_TIMEOUT_S, limits=limits
    ) as client:
        soak = Soak(service, clips, client)
        await soak.learn()
        places = asyncio.Semaphore(CLIENTS)

        async def send(number: int) -> None:
            async with places:
                await soak.send(number)

        marks = [WARM_UP + (requests - WARM_UP) * part // SAMPLES for part in range(SAMPLES + 1)]
        held, start = [await soak.holding(0)], 0
        for mark in marks:
            async with asyncio.TaskGroup() as group:
                for number in range(start, mark):
                    group.create_task(send(number))
            start = mark
            held.append(await soak.holding(mark))
    # The clients' own connections are closed now: what is open is the service's own.
    held.append(await soak.holding(requests))
    restarts = await asyncio.to_thread(service.metric, "har_decoder_restarts_total")
    warm, last = held[1], held[-1]
    if last.service_mebibytes - warm.service_mebibytes > MOST_GROWTH_MEBIBYTES:
        soak.wrong.append("the service's memory has grown")
    if last.open_files > held[0].open_files or last.children > held[0].children:
        soak.wrong.append("files or processes are left")
    if last.threads > held[0].threads + CLIENTS:
        soak.wrong.append("threads are left")
    return _report(soak, held, restarts, time.monotonic() - began_s)


def _report(
    soak: Soak, held: list[Holding], restarts: Mapping[str, float], seconds: float
) -> list[str]:
    answered = {kind: n for (kind, outcome), n in soak.answers.items() if outcome == "200"}
    damaged = answered.pop("damaged", 0)
    total = sum(soak.answers.values())
    return [
        f"{total} requests in {seconds:.0f} s; {sum(answered.values())} clips were answered, each "
        f"compared with its reference, and {damaged} damaged ones. Decoders killed from outside: "
        f"{soak.kills}. Decoders replaced: "
        + ", ".join(f"{reason} {count:.0f}" for reason, count in restarts.items())
        + ".",
        "",
        "| after requests | service, MiB | decoders and their parent, MiB | processes | "
        "open files | threads |",
        "|---|---|---|---|---|---|",
        *(
            f"| {one.requests} | {one.service_mebibytes:.1f} | {one.children_mebibytes:.1f} | "
            f"{one.children} | {one.open_files} | {one.threads} |"
            for one in held
        ),
        "",
        "The last row is after the clients' connections were closed. Memory is Pss: what processes "
        "share is divided among them. Threads are those in which files are written and the web "
        "framework's, which end when they have had nothing to do for a while.",
        "",
        "| request | outcome | times |",
        "|---|---|---|",
        *(
            f"| {kind} | {outcome} | {times} |"
            for (kind, outcome), times in sorted(soak.answers.items())
        ),
        "",
        *(soak.wrong[:50] or ["No answer was another clip's; no 5xx; nothing was left open."]),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000, help="(default: 10000)")
    requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        publish_colour_model(folder / "models")
        clips = {kind: drawing.write(folder / kind).read_bytes() for kind, drawing in CLIPS.items()}
        settings = {
            "MODELS_DIR": folder / "models",
            "SPOOL_DIR": folder / "spool",
            "MAX_UPLOAD_BYTES": MAX_UPLOAD_BYTES,
            "LOG_LEVEL": "warning",
        }
        with running_service(settings, folder / "log") as service:
            lines = asyncio.run(run(service, clips, requests))
            left = list((folder / "spool").iterdir())
    write_report(
        "soak",
        f"{requests} mixed requests",
        [*environment("av", "onnxruntime-gpu", "fastapi", "uvicorn"), f"{CLIENTS} at a time."],
        lines,
    )
    return 1 if left or not lines[-1].startswith("No answer") else 0


if __name__ == "__main__":
    sys.exit(main())
