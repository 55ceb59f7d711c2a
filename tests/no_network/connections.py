"""No test and no import may connect to another machine: a hook in the interpreter refuses, and notes who tried."""

import os
import socket
import sys
from typing import Any

NOTES = "D2V_TEST_CONNECTIONS"
"""Environment variable: the file to note them in, so that code which catches every error hides nothing."""
_HERE = {None, "", "localhost", "::1", "::", "0.0.0.0", socket.gethostname()}


def install() -> None:
    """From now on, and for good."""
    sys.addaudithook(_refuse)


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        if not isinstance(address, tuple):  # a Unix socket, or one that is connected
            return
        host = address[0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    if isinstance(host, bytes):
        host = host.decode()
    if host in _HERE or host.startswith("127."):
        return
    if path := os.environ.get(NOTES):
        with open(path, "a") as file:
            file.write(f"{host} by {' '.join(sys.argv)}\n")
    raise RuntimeError(f"tests must not use the network: {event} of {host}")
