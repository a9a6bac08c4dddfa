"""The address on a chosen network interface is that which the kernel gives it."""

from __future__ import annotations

import socket

from xtrain.dispatch.interfaces import address_of, interfaces


def test_the_address_of_an_interface_can_be_bound() -> None:
    for name, address in interfaces().items():
        assert address_of(f"ib77,{name}") == address
        with socket.create_server((address, 0)):
            pass
    assert address_of("ib77") == address_of("") == ""
