"""python -m service.classify: classify video files by the service's own pipeline, without a server.

Exit codes: 0 every file was classified, 1 at least one was not, 2 nothing was tried (an option, a
setting or a model cannot be used, or there is no video), 3 the GPU failed and the rest was not
tried, 130 it was interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

from clip import ModelManifest
from service.clipfiles import UnreadableError, find_files, open_file
from service.cuda import exit_without_cleanup
from service.deadline import Deadline
from service.errors import (
    GpuLostError,
    InferenceError,
    InvalidParameterError,
    ServiceError,
    UnknownModelError,
    UnknownVersionError,
    describe_error,
)
from service.inference import OnnxModel
from service.listing import (
    ClassifiedFile,
    CsvListing,
    Failure,
    JsonListing,
    Listing,
    TableListing,
)
from service.loading import is_loading
from service.progress import ProgressBar
from service.registry import ModelRegistry
from service.runtime import Collaborators, Runtime, StartError
from service.settings import Settings, load_settings, warn_of_unknown_variables

logger: Final = logging.getLogger(__name__)

_EXIT_SOME_FAILED = 1
_EXIT_NOTHING_TRIED = 2
_EXIT_GPU_LOST = 3
_EXIT_INTERRUPTED = 130
_TABLE_TOP_K = 3
_CSV_TOP_K = 1
#: So that no decoder waits while clips are at the model.
_CLIPS_PER_DECODER = 2
_DEFAULTS = Collaborators()


class UsageError(ValueError):
    """What was asked for cannot be done; the message is for whoever asked."""


async def classify_files(
    paths: Sequence[Path],
    options: argparse.Namespace,
    settings: Settings,
    collaborators: Collaborators = _DEFAULTS,
) -> int:
    """Classify files, several at a time, and print each as soon as all before it are there.

    Returns:
        How many failed.

    Raises:
        UsageError: there is no such model, or not in that version.
        ModelLoadError, ForkServerError, SettingsError: nothing can be classified here.
        GpuLostError: nothing more can; what came before has been printed.
    """
    async with _running(settings, collaborators) as runtime:
        model = _choose_model(runtime.registry, options.model, options.version)
        listing = _choose_listing(paths, model.manifest, options)
        bar = ProgressBar(len(paths), sys.stderr)
        printer = _OrderedPrinter(bar)
        began_s = time.monotonic()
        failed = 0

        async def work() -> None:
            nonlocal failed
            for number, path in pending:
                file = await _classify_file(path, runtime, model)
                has_failed = isinstance(file.outcome, Failure)
                failed += has_failed
                bar.advance(failed=has_failed)
                printer.add(number, listing.line(file))

        head = listing.head()
        if head is not None:
            print(head)
        bar.draw()
        pending = iter(enumerate(paths))
        at_a_time = min(settings.decoders * _CLIPS_PER_DECODER, settings.max_in_flight)
        workers = [asyncio.create_task(work()) for _ in range(at_a_time)]
        try:
            await asyncio.gather(*workers)
        finally:
            bar.clear()
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    if len(paths) > 1:
        took_s = time.monotonic() - began_s
        rate = f"{took_s:.1f} s, {len(paths) / took_s:.1f} files a second"
        _tell(f"{len(paths) - failed} of {len(paths)} files classified in {rate}")
    return failed


class _OrderedPrinter:
    """Prints lines in the order of their numbers, from 0, each as soon as all before it are there.

    It is given lines, not predictions: a thousand of these would hold a thousand clips' frames.
    """

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        self._waiting: dict[int, str] = {}
        self._next = 0

    def add(self, number: int, line: str) -> None:
        """Take a line; print what is due."""
        self._waiting[number] = line
        if self._next in self._waiting:
            self._bar.clear()
            while self._next in self._waiting:
                print(self._waiting.pop(self._next))
                self._next += 1
            sys.stdout.flush()
            self._bar.draw()


@asynccontextmanager
async def _running(settings: Settings, collaborators: Collaborators) -> AsyncIterator[Runtime]:
    """The service's parts without its server, ready."""
    settled = asyncio.get_running_loop().create_future()

    def be_ready(registry: ModelRegistry) -> None:
        settled.set_result(registry)

    def fail(error: Exception) -> None:
        # A GPU that is lost later fails every clip: whoever waits for one learns of it there.
        if not settled.done():
            settled.set_exception(error)

    runtime = Runtime(settings, replace(collaborators, on_ready=be_ready, on_failure=fail))
    runtime.start()
    try:
        await settled
        yield runtime
    finally:
        await runtime.stop()


async def _classify_file(path: Path, runtime: Runtime, model: OnnxModel) -> ClassifiedFile:
    deadline = Deadline.after(runtime.settings.request_timeout_s)
    try:
        with open_file(path) as file:
            return ClassifiedFile(path, await runtime.pipeline.classify(file, model, deadline))
    except GpuLostError:
        raise
    except UnreadableError as error:
        return ClassifiedFile(path, Failure("unreadable", "File cannot be read", str(error)))
    except Exception as error:
        problem = describe_error(error)
        if problem.kind.code in {ServiceError.code, InferenceError.code}:
            logger.exception("%s", path)
        return ClassifiedFile(path, Failure(problem.kind.code, problem.kind.title, problem.detail))


def _choose_model(registry: ModelRegistry, name: str | None, version: int | None) -> OnnxModel:
    try:
        return registry.get(name, version)
    except UnknownVersionError as error:
        known = name or registry.get(None).manifest.name
        served = ", ".join(map(str, registry.versions(known)))
        raise UsageError(f"{known} has no version {version}; there is {served}") from error
    except (UnknownModelError, InvalidParameterError) as error:
        served = ", ".join(dict.fromkeys(model.manifest.name for model in registry))
        wanted = "no --model is named" if name is None else f"there is no model {name!r}"
        raise UsageError(f"{wanted}; there is {served}") from error


def _choose_listing(
    paths: Sequence[Path], manifest: ModelManifest, options: argparse.Namespace
) -> Listing:
    if options.format == "json":
        return JsonListing(options.top_k)
    if options.format == "csv":
        return CsvListing(manifest, options.top_k or _CSV_TOP_K)
    return TableListing(paths, manifest, options.top_k or _TABLE_TOP_K)


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m service.classify",
        description="Classify video files as the service would, without a server.",
        epilog="Exit codes: 0 every file was classified, 1 at least one was not, 2 nothing was "
        "tried, 3 the GPU failed amid it, 130 interrupted. Models, device, decoders and limits are "
        "the service's HAR_ variables: see docs/settings.md.",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE|DIR|GLOB",
        help="a video, a folder (the videos below it, whatever their names) or a pattern",
    )
    parser.add_argument("--model", metavar="NAME", help="model; without it the default one")
    parser.add_argument(
        "--version", type=_positive, metavar="N", help="version of it; without it the newest"
    )
    parser.add_argument(
        "--top-k",
        type=_positive,
        metavar="N",
        help=f"classes of each file (default: {_TABLE_TOP_K} in the table, all in JSON, "
        f"{_CSV_TOP_K} in CSV)",
    )
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument(
        "--json",
        dest="format",
        action="store_const",
        const="json",
        help="a JSON object a line, with the fields of /predict's answer",
    )
    formats.add_argument(
        "--csv", dest="format", action="store_const", const="csv", help="comma-separated values"
    )
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("a whole number of at least 1 is wanted")
    return int(text)


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


def main(arguments: Sequence[str] | None = None, collaborators: Collaborators = _DEFAULTS) -> int:
    """Classify what the command line names; the process's exit code."""
    options = _parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    # A name in another encoding than the terminal's must not end the run.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    found = find_files(options.files)
    if found.skipped:
        _tell(f"left out of folders, because they are no videos: {found.skipped}")
    if not found.paths:
        _tell("there is no video to classify")
        return _EXIT_NOTHING_TRIED
    try:
        # Nothing is uploaded and nobody listens: neither the service's folder nor its address.
        with tempfile.TemporaryDirectory(prefix="har-classify-") as folder:
            settings = load_settings(spool_dir=Path(folder), host="127.0.0.1")
            warn_of_unknown_variables()
            failed = asyncio.run(classify_files(found.paths, options, settings, collaborators))
    except (UsageError, *StartError.__args__) as error:
        _tell(f"cannot classify: {error}")
        return _EXIT_NOTHING_TRIED
    except GpuLostError as error:
        _tell(f"cannot go on: {error.reason}")
        return _EXIT_GPU_LOST
    except KeyboardInterrupt:
        _tell("interrupted")
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has enough. Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_INTERRUPTED
    return _EXIT_SOME_FAILED if failed else 0


def run(collaborators: Collaborators = _DEFAULTS) -> NoReturn:
    """The program: main(), then the end of the process."""
    code = main(collaborators=collaborators)
    if code == _EXIT_GPU_LOST or is_loading():
        exit_without_cleanup(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
