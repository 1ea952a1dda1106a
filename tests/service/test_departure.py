"""Clients that hang up while they stand in line: their places are free at once."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

import pytest

from service.disconnect import watch_nobody
from service.hangup import HangUps
from tests.open_files import expect_nothing_left_open
from tests.service.wire import VIDEO_HEAD, request_head

#: More than the server reads ahead of what is asked of it; the system's buffers hold the rest.
LONG_BODY = VIDEO_HEAD.ljust(100_000, b"\0")
#: More than these hold: the client still has some of it to send when it leaves.
LONGER_BODY = VIDEO_HEAD.ljust(250_000, b"\0")


def hang_up(connection: socket.socket) -> None:
    connection.close()


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize(
    ("leave", "sent", "headers"),
    [
        pytest.param(hang_up, b"", {"Expect": "100-continue"}, id="nothing sent"),
        pytest.param(hang_up, VIDEO_HEAD, {}, id="some sent"),
        pytest.param(hang_up, LONG_BODY, {}, id="more sent than is read ahead"),
        pytest.param(reset, VIDEO_HEAD, {}, id="some sent, reset"),
        pytest.param(reset, LONGER_BODY, {}, id="far more sent than is read ahead, reset"),
    ],
)
def test_one_who_hangs_up_in_the_line_gives_up_the_place_at_once(
    start_service, gated_decoders, gate, wait_for, red_clip, leave, sent: bytes, headers
) -> None:
    with (
        start_service(gated_decoders, max_in_flight=1, max_batch_size=1, max_waiting=1) as service,
        service.connect() as working,
        service.connect() as leaving,
    ):
        admission = service.runtime.admission
        length = str(len(red_clip))
        head = request_head(Content_Type="video/mp4", Content_Length=length, Connection="close")
        working.sendall(head + red_clip)
        gate.await_arrivals(1)
        leaving.sendall(request_head(Content_Type="video/mp4", Content_Length="250000", **headers))
        wait_for(lambda: admission.waiting == 1)
        leaving.setblocking(False)
        with suppress(BlockingIOError):
            leaving.sendall(sent)
        leave(leaving)
        wait_for(lambda: admission.waiting == 0)
        assert (gate.arrived, admission.in_flight) == (1, 1), "nobody else has moved"
        service.settle()
        assert service.count_predicts("client_gone") == 1
        with service.connect() as following:
            following.sendall(head + red_clip)
            wait_for(lambda: admission.waiting == 1)
            gate.open()
            for connection in (working, following):
                assert service.read_answer(connection)[2]["label"] == "red"


def test_one_who_stays_in_the_line_gets_an_answer_for_a_long_body_too(
    start_service, gated_decoders, gate, wait_for, red_clip
) -> None:
    clip = red_clip.ljust(200_000, b"\0")  # behind the video's end: never looked at
    with (
        start_service(gated_decoders, max_in_flight=1, max_batch_size=1) as service,
        service.connect() as first,
        service.connect() as second,
    ):
        head = request_head(Content_Type="video/mp4", Content_Length=str(len(clip)))
        first.sendall(head + clip)
        gate.await_arrivals(1)
        second.sendall(head + clip)
        wait_for(lambda: service.runtime.admission.waiting == 1)
        gate.open()
        for connection in (first, second):
            assert service.read_answer(connection)[0] == 200


def test_where_the_server_cannot_tell_nobody_is_taken_to_have_left() -> None:
    with watch_nobody(lambda: pytest.fail("left")):
        pass


def test_what_cannot_be_watched_leaves_no_descriptor_and_the_next_is_watched(
    run_async, tmp_path
) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        hang_ups, gone = HangUps(), asyncio.Event()
        with ours, (tmp_path / "file").open("w") as file:
            with expect_nothing_left_open():
                # epoll takes no ordinary file, as it takes no socket beyond the system's limit.
                hang_ups.watch(file.fileno(), lambda: pytest.fail("left"))
            with expect_nothing_left_open():
                hang_ups.forget(file.fileno())
                hang_ups.watch(ours.fileno(), gone.set)
                theirs.close()
                await gone.wait()
                hang_ups.forget(ours.fileno())

    run_async(scenario)


def test_sockets_are_watched_past_what_is_unread_and_no_descriptor_is_left(run_async) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        hang_ups, gone = HangUps(), asyncio.Event()
        with ours, expect_nothing_left_open():
            with theirs:
                hang_ups.watch(ours.fileno(), gone.set)
                theirs.sendall(b"unread")
                await asyncio.sleep(0)
                assert not gone.is_set()
            await gone.wait()
            hang_ups.forget(ours.fileno())
            hang_ups.forget(ours.fileno())

    run_async(scenario)
