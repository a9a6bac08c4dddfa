"""Network interfaces of this machine, and the addresses at which others reach it."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct

_SIOCGIFADDR = 0x8915  # linux/sockios.h


def interfaces() -> dict[str, str]:
    """Name -> IPv4 address of the network interfaces that have one, the loop-back left out."""
    found = {}
    for _, name in socket.if_nameindex():
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            packed = struct.pack("256s", name.encode()[:15])
            address = socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, packed)[20:24])
            if not address.startswith("127."):
                found[name] = address
    return found


def address_of(chosen: str) -> str:
    """The address of the first interface of ``chosen`` (with commas between) that this machine has; empty for none."""
    found = interfaces()
    return next((found[name] for name in chosen.split(",") if name in found), "")
