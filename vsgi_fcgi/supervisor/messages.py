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


def send(
    sock: _socket.socket, message: Message, fds: Sequence[int] = (), *, wait: bool = False
) -> None:
    """Send a message with descriptors. The receiver gets copies of them.

    Args:
        sock: a socket of the type SOCK_SEQPACKET.
        message: what JSON can encode.
        fds: the descriptors.
        wait: wait for room in the socket, as long as its timeout allows.

    Raises:
        BlockingIOError: the socket is full, and the call does not wait.
        TimeoutError: there was no room within the timeout of the socket.
        OSError: the other process has ended, or its user has too many descriptors on their way.
    """
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([json.dumps(message).encode()], rights, 0 if wait else _socket.MSG_DONTWAIT)


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


# What a process publishes may be larger than a message.

_PART = MESSAGE_SIZE // 4
"""Largest part of published items in a message, in bytes. JSON may make it twice as long."""

_MAX_SENDERS = 256
"""Maximum number of processes of which a part waits for the next one. The oldest is dropped."""


def split_published(body: bytes, sender: int) -> list[Message]:
    """Return the messages that carry published items.

    Args:
        body: the items, as JSON in ASCII.
        sender: the process id.
    """
    text = body.decode("ascii")
    parts = [text[start : start + _PART] for start in range(0, len(text), _PART)]
    return [
        {"published": part, "sender": sender, "part": number, "parts": len(parts)}
        for number, part in enumerate(parts)
    ]


class PublishedParts:
    """Joins the messages of `split_published`, which other messages may separate."""

    def __init__(self) -> None:
        self._parts: dict[int, list[str]] = {}

    def add(self, message: Message) -> bytes | None:
        """Add a message.

        Returns:
            The items, if they are complete. If the supervisor has dropped a part, the others are
            dropped, too.
        """
        parts = self._parts.pop(message["sender"], [])
        if message["part"] == 0:
            parts = []
        elif len(parts) != message["part"]:
            return None
        parts.append(message["published"])
        if len(parts) == message["parts"]:
            return "".join(parts).encode()
        if len(self._parts) >= _MAX_SENDERS:
            del self._parts[next(iter(self._parts))]
        self._parts[message["sender"]] = parts
        return None
