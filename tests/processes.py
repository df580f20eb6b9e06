"""Programs of their own, since the number of devices is fixed once JAX has begun."""

from __future__ import annotations

import os

__all__ = ["on_devices"]


def on_devices(number: int = 8) -> dict[str, str]:
    """Returns the environment of a program that is to see so many devices; it compiles as the tests do."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={number}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
