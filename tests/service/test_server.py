"""The listening socket: bound before anything is loaded, and quick."""

from __future__ import annotations

import socket

import pytest

from service.server import open_listener
from service.settings import SettingsError


def test_small_answers_are_not_held_back_by_the_system() -> None:
    with open_listener("127.0.0.1", 0) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_taken_port_is_told_with_its_variables() -> None:
    with open_listener("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(SettingsError, match=f"HAR_PORT={port}: Address already in use"):
            open_listener("127.0.0.1", port)


def test_an_address_that_is_not_this_machines_is_told() -> None:
    with pytest.raises(SettingsError, match=r"HAR_HOST=no\.such\.host\.invalid"):
        open_listener("no.such.host.invalid", 0)
