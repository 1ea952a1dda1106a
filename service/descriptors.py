"""Open files: enough of them for what the settings allow, or fewer connections."""

from __future__ import annotations

import logging
import resource
from typing import Final

from service.connection import BACKLOG, MAX_LINGERING
from service.settings import Settings, SettingsError

logger: Final = logging.getLogger(__name__)

#: Rounds of asyncio's loop from accepting a connection to closing one too many.
_ROUNDS = 4
#: Libraries, models, the listening socket, the event loop, the log and room to breathe; connections
#: that are to be refused, and those that are just being told so.
_OWN_FILES = 128 + _ROUNDS * BACKLOG + MAX_LINGERING
#: A decoder's socket, a clip's descriptor on its way to it, its replacement.
_FILES_PER_DECODER = 4
_FEWEST_CONNECTIONS = 8


def count_possible_connections(settings: Settings) -> int:
    """Raise the process's limit of open files as far as needed and allowed.

    Returns:
        HAR_MAX_CONNECTIONS, or fewer where the limit does not allow that many.

    Raises:
        SettingsError: the limit is too low to serve anyone.
    """
    # Each request that is in work has its upload's file beside its connection.
    reserved = _OWN_FILES + settings.max_in_flight + _FILES_PER_DECODER * settings.decoders
    wanted = reserved + settings.max_connections
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= wanted:
        return settings.max_connections
    limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    connections = limit - reserved
    if connections < _FEWEST_CONNECTIONS:
        raise SettingsError(
            f"the limit of open files (ulimit -n) is {limit}, and at least "
            f"{reserved + _FEWEST_CONNECTIONS} are needed with these settings"
        )
    if connections < settings.max_connections:
        logger.warning("the limit of open files (%d) allows %d connections", limit, connections)
    return connections
