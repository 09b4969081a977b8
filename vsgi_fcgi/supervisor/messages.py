"""Messages between the supervisor and its processes: JSON, sometimes with a descriptor."""

from __future__ import annotations

import _socket  # never monkey-patched; see `vsgi_fcgi.listen.listeners`
import array
import json
import os
from collections.abc import Sequence
from typing import Any

MESSAGE_SIZE = 64 * 1024
"""Largest size of a message, in bytes."""

Message = dict[str, Any]


def send(sock: _socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send a message with descriptors, without waiting. The receiver gets copies of them.

    Args:
        sock: a socket of the type SOCK_SEQPACKET.
        message: what JSON can encode.
        fds: the descriptors.

    Raises:
        BlockingIOError: the socket is full.
        OSError: the other process has ended, or its user has too many descriptors on their way.
    """
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([json.dumps(message).encode()], rights, _socket.MSG_DONTWAIT)


def receive(sock: _socket.socket) -> tuple[Message, list[int]] | None:
    """Receive a message with its descriptors.

    Returns:
        The message and its descriptors; None if the other process has ended.

    Raises:
        BlockingIOError: there is no message, and the socket does not block.
        TimeoutError: there was no message within the timeout of the socket.
    """
    item = array.array("i").itemsize
    try:
        data, rights, _, _ = sock.recvmsg(
            MESSAGE_SIZE, _socket.CMSG_SPACE(item), _socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        return None
    fds = array.array("i")
    for _, _, content in rights:
        fds.frombytes(content[: len(content) - len(content) % item])
    if not data:
        close_all(fds)
        return None
    return json.loads(data), list(fds)


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that nothing uses."""
    for fd in fds:
        os.close(fd)
