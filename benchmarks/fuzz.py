"""What damaged videos do to the service: python -m benchmarks.fuzz [--mutants 1000].

Starts the service, sends it that many damaged copies of an MP4, an AVI, a Matroska and an MPEG-TS
file (tests.mutants: the same ones every time) and a good clip in between, and writes the answers,
counted, to benchmarks/reports/fuzz.md. Ends with an error if one is not 200, 415 or 422, if a good
clip is answered differently, or if a decoder had to be replaced. About two minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.colour_model import publish_colour_model
from benchmarks.report import environment, write_report
from benchmarks.service_process import running_service
from tests.mutants import ORIGINALS, draw_originals, mutate

CLIENTS = 4
EXPECTED = {200, 415, 422}
#: A good clip goes after so many mutants.
GOOD_EVERY = 50


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one mutant, and after how many seconds."""

    container: str
    seed: int
    status: int
    code: str
    elapsed_s: float


def ask(client: httpx.Client, content: bytes) -> httpx.Response:
    return client.post("/predict", content=content, headers={"Content-Type": "video/mp4"})


def send_mutant(client: httpx.Client, container: str, original: bytes, seed: int) -> Answer:
    began_s = time.monotonic()
    response = ask(client, mutate(original, seed))
    elapsed_s = time.monotonic() - began_s
    code = "answered" if response.status_code == 200 else response.json()["code"]
    return Answer(container, seed, response.status_code, code, elapsed_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mutants", type=int, default=1000, help="of each file (default: 1000)")
    mutants = parser.parse_args().mutants
    faults = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        publish_colour_model(folder / "models")
        originals = draw_originals(folder)
        settings = {"MODELS_DIR": folder / "models", "SPOOL_DIR": folder / "spool"}
        with (
            running_service(settings, folder / "log") as service,
            httpx.Client(base_url=service.url, timeout=120) as client,
            ThreadPoolExecutor(CLIENTS) as clients,
        ):
            good = {
                kind: ask(client, whole).json()["probabilities"]
                for kind, whole in originals.items()
            }
            answers: list[Answer] = []
            for start in range(0, mutants, GOOD_EVERY):
                jobs = [
                    clients.submit(send_mutant, client, kind, whole, seed)
                    for seed in range(start, min(start + GOOD_EVERY, mutants))
                    for kind, whole in originals.items()
                ]
                answers += [job.result() for job in jobs]
                for kind, whole in originals.items():
                    if ask(client, whole).json()["probabilities"] != good[kind]:
                        faults.append(f"{kind}: another answer after mutant {start}")
            restarts = service.metric("har_decoder_restarts_total")
    faults += [
        f"{count:.0f} decoders replaced: {reason}"
        for reason, count in restarts.items()
        if count and reason != "recycled"
    ]
    faults += [
        f"{answer.container} {answer.seed}: {answer.status} {answer.code}"
        for answer in answers
        if answer.status not in EXPECTED or answer.code in {"decoder_crashed", "decode_timeout"}
    ]
    counts = Counter((answer.container, answer.status, answer.code) for answer in answers)
    rows = sorted({(status, code) for _, status, code in counts})
    lines = [
        "| answer | " + " | ".join(ORIGINALS) + " |",
        "|---" * (len(ORIGINALS) + 1) + "|",
        *(
            f"| {status} {code} | "
            + " | ".join(str(counts[kind, status, code]) for kind in ORIGINALS)
            + " |"
            for status, code in rows
        ),
        "",
        f"Slowest answer: {max(answer.elapsed_s for answer in answers):.2f} s.",
        "",
        *(faults or ["Nothing else was answered; every good clip in between got its own answer."]),
    ]
    write_report(
        "fuzz",
        f"{mutants} damaged copies of each of {len(ORIGINALS)} videos",
        environment("av"),
        lines,
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
