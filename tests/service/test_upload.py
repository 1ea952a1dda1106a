"""Uploads over real sockets: what is refused from the headers, what on the way, what is left."""

from __future__ import annotations

import http.client
import shutil
from pathlib import Path

import pytest

from clip.sniff import SNIFF_BYTES
from service.upload import MAX_ENVELOPE_BYTES
from tests.service.gate import WAIT_S
from tests.service.wire import (
    FORM_HEAD,
    FORM_HEADERS,
    FORM_TAIL,
    VIDEO_HEAD,
    chunked,
    request_head,
)

MAX_UPLOAD_BYTES = 256 * 1024


# --- what is accepted -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type", ["video/mp4", "video/quicktime", "VIDEO/x-msvideo", "application/octet-stream"]
)
def test_a_raw_body_is_the_video(service, red_clip, content_type: str) -> None:
    response = service.client.post(
        "/predict", content=red_clip, headers={"Content-Type": content_type}
    )
    assert response.json()["label"] == "red"


def test_a_chunked_body_needs_no_length(service, red_clip) -> None:
    with service.connect() as connection:
        connection.sendall(
            request_head(Content_Type="video/mp4", Transfer_Encoding="chunked")
            + chunked(red_clip, 100)
        )
        status, _, body = service.read_answer(connection)
    assert (status, body["label"]) == (200, "red")


def test_expect_100_continue_is_answered_when_the_body_is_wanted(service, red_clip) -> None:
    with service.connect() as connection:
        connection.sendall(
            request_head(
                Content_Type="video/mp4", Content_Length=str(len(red_clip)), Expect="100-continue"
            )
        )
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(red_clip)
        assert service.read_answer(connection)[0] == 200


def test_a_file_of_exactly_the_limit_is_read_and_one_byte_more_is_not(
    service, expect_problem
) -> None:
    junk = VIDEO_HEAD.ljust(MAX_UPLOAD_BYTES, b"\0")
    expect_problem(service.predict(junk), 422, "decode_failed")
    expect_problem(service.predict(junk + b"\0"), 413, "upload_too_large")
    headers = {"Content-Type": "video/mp4"}
    response = service.client.post("/predict", content=junk, headers=headers)
    expect_problem(response, 422, "decode_failed")
    response = service.client.post("/predict", content=junk + b"\0", headers=headers)
    expect_problem(response, 413, "upload_too_large")


@pytest.mark.parametrize("name", ["../../etc/passwd", "x" * 10_000, "€µ.mp4", "-i", "a\0b"])
def test_f13_a_files_name_is_never_used(service, red_clip, name: str) -> None:
    answer = service.client.post("/predict", files={"file": (name, red_clip)})
    assert answer.json()["label"] == "red"


# --- what is refused from the headers -------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        pytest.param({}, 400, "missing_file", id="f01-no-body"),
        pytest.param(
            {"Content_Type": "application/json", "Content_Length": "9"},
            415,
            "unsupported_media_type",
            id="f01-json",
        ),
        pytest.param(
            {"Content_Type": "application/x-www-form-urlencoded", "Content_Length": "9"},
            415,
            "unsupported_media_type",
            id="f01-urlencoded",
        ),
        pytest.param({"Content_Length": "9"}, 415, "unsupported_media_type", id="f01-no-type"),
        pytest.param(
            {"Content_Type": "x" * 5000, "Content_Length": "9"},
            415,
            "unsupported_media_type",
            id="f01-long-type",
        ),
        pytest.param({"Content_Type": "video/mp4"}, 400, "empty_file", id="f04-no-body"),
        pytest.param(
            {"Content_Type": "multipart/form-data; boundary=b"},
            400,
            "missing_file",
            id="f02-no-body",
        ),
        pytest.param(
            {"Content_Type": "multipart/form-data", "Content_Length": "9"},
            400,
            "malformed_multipart",
            id="f05-no-boundary",
        ),
        pytest.param(
            {"Content_Type": "multipart/form-data; boundary=" + "b" * 300, "Content_Length": "9"},
            400,
            "malformed_multipart",
            id="f05-long-boundary",
        ),
        pytest.param(
            {"Content_Type": "multipart/form-data; boundary=a; boundary=b", "Content_Length": "9"},
            400,
            "malformed_multipart",
            id="f05-two-boundaries",
        ),
        pytest.param(
            {"Content_Type": "video/mp4", "Content_Length": str(10**12)},
            413,
            "upload_too_large",
            id="f06-too-large",
        ),
        pytest.param(
            {"Content_Type": "video/mp4", "Content_Length": "9", "Content_Encoding": "gzip"},
            415,
            "unsupported_encoding",
            id="f14-gzip",
        ),
        pytest.param(
            {"Content_Type": "video/mp4", "Content_Length": "9"} | {"X_Request_ID": "mine-1"},
            404,
            "unknown_model",
            id="f22-unknown-model",
        ),
    ],
)
def test_the_body_is_not_asked_for_where_the_headers_suffice(
    service, headers: dict[str, str], status: int, code: str
) -> None:
    """Nothing of the body is sent: an answer that comes all the same was made from the headers."""
    path = "/predict?model=nope" if code == "unknown_model" else "/predict"
    with service.connect() as connection:
        connection.sendall(request_head(path, Expect="100-continue", **headers))
        answer = service.read_answer(connection)
        assert answer[0] == status, answer
        assert answer[2]["code"] == code
        assert answer[1]["connection"] == "close"
        assert connection.recv(1) == b"", "the server closes, lest a body be taken for a request"


def test_f06_without_expect_the_connection_lives_on(service, red_clip) -> None:
    """The refused body is passed over, and the next request on the connection is answered."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=WAIT_S)
    headers = {"Content-Type": "video/mp4"}
    connection.request("POST", "/predict", b"\0" * (MAX_UPLOAD_BYTES + 1), headers)
    with connection.getresponse() as response:
        assert response.status == 413
        response.read()
    connection.request("POST", "/predict", red_clip, headers)
    with connection.getresponse() as response:
        assert response.status == 200
        response.read()
    connection.close()


# --- what is refused on the way -------------------------------------------------------------------


def test_f04_an_empty_file_part(service, expect_problem) -> None:
    expect_problem(service.predict(b""), 400, "empty_file")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b"--b--\r\n", "missing_file", id="f02"),
        pytest.param(
            FORM_HEAD.replace(b'"file"', b'"File"') + FORM_TAIL, "missing_file", id="f02-File"
        ),
        pytest.param(
            FORM_HEAD + b"x\r\n" + FORM_HEAD + b"x" + FORM_TAIL, "too_many_parts", id="f03"
        ),
        pytest.param(FORM_HEAD + b"video", "malformed_multipart", id="f05-cut"),
        pytest.param(b"nonsense", "malformed_multipart", id="f05-nonsense"),
        pytest.param(
            b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\n'
            + b"x" * (MAX_ENVELOPE_BYTES + 1)
            + b"\r\n"
            + FORM_HEAD
            + b"x"
            + FORM_TAIL,
            "malformed_multipart",
            id="too-much-beside-the-file",
        ),
        pytest.param(b"\r\n" * MAX_ENVELOPE_BYTES, "malformed_multipart", id="f11-blank-lines"),
    ],
)
def test_a_form_that_is_not_as_it_should_be(
    service, expect_problem, body: bytes, code: str
) -> None:
    response = service.client.post("/predict", content=body, headers=FORM_HEADERS)
    expect_problem(response, 400, code)


@pytest.mark.parametrize("form", [False, True])
def test_f07_a_chunked_body_is_refused_as_soon_as_it_passes_the_limit(service, form: bool) -> None:
    """The body never ends; the answer comes because the limit has been passed."""
    content_type = FORM_HEADERS["Content-Type"] if form else "video/mp4"
    body = (FORM_HEAD if form else b"") + VIDEO_HEAD + b"\0" * MAX_UPLOAD_BYTES
    with service.connect() as connection:
        connection.sendall(
            request_head(Content_Type=content_type, Transfer_Encoding="chunked")
            + chunked(body, 64 * 1024).removesuffix(b"0\r\n\r\n")
        )
        status, _, problem = service.read_answer(connection)
    assert (status, problem["code"]) == (413, "upload_too_large")


@pytest.mark.parametrize("form", [False, True])
@pytest.mark.parametrize("piece", [6, 1000, 100_000])
def test_f26_what_is_no_video_is_refused_after_its_first_kilobyte(
    service, form: bool, piece: int
) -> None:
    """Not a byte more is sent: the answer comes because the kilobyte is enough."""
    content_type = FORM_HEADERS["Content-Type"] if form else "video/mp4"
    body = (FORM_HEAD if form else b"") + b"%PDF-1.7".ljust(SNIFF_BYTES)
    # A parser of forms holds back what may be the beginning of a boundary.
    body += b" " * len("\r\n--b") if form else b""
    with service.connect() as connection:
        connection.sendall(
            request_head(Content_Type=content_type, Transfer_Encoding="chunked")
            + chunked(body, piece).removesuffix(b"0\r\n\r\n")
        )
        status, _, problem = service.read_answer(connection)
    assert (status, problem["code"]) == (415, "unknown_container")


def test_f26_what_is_no_video_is_never_stored(start_service, expect_problem) -> None:
    with start_service() as service:
        service.runtime.spool.open_file = lambda: pytest.fail("stored")
        for content in (b"x", b"x" * (SNIFF_BYTES - 1), b"x" * 100_000):
            expect_problem(service.predict(content), 415, "unknown_container")


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"Content-Length: -1\r\n", id="negative"),
        pytest.param(b"Content-Length: 1\r\nContent-Length: 2\r\n", id="two-lengths"),
        pytest.param(b"Content-Length: x\r\n", id="no-number"),
        pytest.param(b"X: " + b"y" * 200_000 + b"\r\n", id="f10-200KB-header"),
        pytest.param(b"X: y\r\n" * 20_000, id="f10-20000-headers"),
    ],
)
def test_f08_f10_what_is_no_http_is_refused_below_the_service(service, head: bytes) -> None:
    with service.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: test\r\n" + head + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


def test_f09_a_body_in_tiny_chunks_is_put_together(service, red_clip) -> None:
    with service.connect() as connection:
        connection.sendall(
            request_head(Content_Type="video/mp4", Transfer_Encoding="chunked")
            + chunked(red_clip, 6)
        )
        assert service.read_answer(connection)[0] == 200


def test_f16_a_stalled_body_is_answered_at_the_deadline(start_service) -> None:
    with (
        start_service(request_timeout_s=0.2, decode_timeout_s=0.2) as service,
        service.connect() as connection,
    ):
        connection.sendall(request_head(Content_Type="video/mp4", Content_Length="1000") + b"x")
        status, _, problem = service.read_answer(connection)
        assert (status, problem["code"]) == (408, "upload_timeout")
        assert problem["detail"] == "The request took longer than allowed."
        assert service.runtime.admission.in_flight == 0


# --- who goes away, and what is full --------------------------------------------------------------


@pytest.mark.parametrize("form", [False, True])
def test_f17_a_client_that_hangs_up_gets_no_answer_and_leaves_nothing(
    service, wait_for, form: bool
) -> None:
    content_type = FORM_HEADERS["Content-Type"] if form else "video/mp4"
    labels = {"route": "/predict", "model": "lrcn", "code": "client_gone"}
    gone = "har_request_duration_seconds_count"
    before = service.metric(gone, **labels)
    with service.connect() as connection:
        connection.sendall(
            request_head(Content_Type=content_type, Content_Length="200000")
            + (FORM_HEAD if form else b"")
            + VIDEO_HEAD
        )
        wait_for(lambda: service.runtime.admission.in_flight == 1)
    wait_for(lambda: service.metric(gone, **labels) == before + 1)
    assert service.runtime.admission.in_flight == 0


@pytest.mark.parametrize("buffering", [0, 1 << 20])
def test_f57_a_full_disk_is_507_and_passes(
    start_service, red_clip, expect_problem, buffering: int
) -> None:
    """With a buffer, the write fails only as it is emptied, and again as the file is closed."""
    with start_service() as service:
        spool = service.runtime.spool
        open_file = spool.open_file
        # The kernel's own full device: every write to it fails with ENOSPC.
        spool.open_file = lambda: open("/dev/full", "w+b", buffering)  # noqa: SIM115
        expect_problem(service.predict(red_clip), 507, "spool_full")
        spool.open_file = open_file
        assert service.predict(red_clip).status_code == 200
        assert service.metric("har_failures_total", reason="spool_full") == 1


def test_f57_a_deleted_spool_folder_is_507_and_passes(
    start_service, red_clip, expect_problem
) -> None:
    with start_service() as service:
        shutil.rmtree(service.runtime.spool.folder)
        expect_problem(service.predict(red_clip), 507, "spool_full")
        service.runtime.spool.folder.mkdir()
        assert service.predict(red_clip).status_code == 200


def put_a_file(place: Path) -> None:
    place.touch()


def put_a_link_to_itself(place: Path) -> None:
    place.symlink_to(place)


@pytest.mark.parametrize("put_something_else", [put_a_file, put_a_link_to_itself])
def test_f57_something_else_in_the_spool_folders_place_is_507_and_passes(
    start_service, red_clip, expect_problem, put_something_else
) -> None:
    with start_service() as service:
        folder = service.runtime.spool.folder
        folder.rmdir()
        put_something_else(folder)
        expect_problem(service.predict(red_clip), 507, "spool_full")
        expect_problem(service.client.get("/health/ready"), 503, "not_ready")
        assert "har_ready 0.0" in service.client.get("/metrics").text
        folder.unlink()
        folder.mkdir()
        assert service.client.get("/health/ready").status_code == 200
        assert service.predict(red_clip).status_code == 200
