"""The board under the bin: temperature, throttling, memory, what its processor can.

Linux tells it in small files.

Whatever a board does not tell is None or empty, never an error.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
from pathlib import Path

_THERMAL = Path("/sys/class/thermal")
_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
# What the int8 kernels of onnxruntime profit from.
_FEATURES = (
    "avx",
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)


def temperature_c() -> float | None:
    """Return the hottest sensor's temperature in degrees Celsius."""
    hottest = [
        t for zone in _THERMAL.glob("thermal_zone*/temp") if (t := _number(zone)) is not None
    ]
    return round(max(hottest) / 1000, 1) if hottest else None


def throttled() -> str:
    """Return "" or in words how the board holds its processor back.

    Heat, or a weak power supply.
    """
    now = _number(_CPUFREQ / "scaling_max_freq")
    full = _number(_CPUFREQ / "cpuinfo_max_freq")
    if now and full and now < 0.95 * full:
        return f"the processor is held at {now / 1e6:.1f} of {full / 1e6:.1f} GHz"
    # Source: Raspberry Pi documentation, get_throttled: bit 0 under-voltage, 2 throttled, 3 soft
    # temperature limit.
    bits = _number(Path("/sys/devices/platform/soc/soc:firmware/get_throttled"), 16)
    texts = {
        1: "the power supply is too weak",
        4: "throttled by heat",
        8: "at the soft temperature limit",
    }
    return ", ".join(text for bit, text in texts.items() if bits and int(bits) & bit)


def resident_mb() -> float:
    """Return the resident memory of this process, 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def give_memory_back() -> None:
    """Return freed memory to the system, where the C library can.

    A model takes far more to open than to hold.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)


def cpu_features() -> tuple[str, ...]:
    """Return which of the instruction sets that matter this processor has."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    have = {
        word for line in lines if line.startswith(("flags", "Features")) for word in line.split()
    }
    return tuple(name for name in _FEATURES if name in have)


def cpu_name() -> str:
    """Return what the processor calls itself, with what it can.

    Two of one name may differ in that.
    """
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    parts = [
        named[key] for key in ("model name", "CPU implementer", "CPU part", "Model") if key in named
    ]
    features = ", ".join(cpu_features()) or "no vector instructions known"
    return f"{' '.join(parts) or platform.machine()} ({features})"


def notify(message: str) -> bool:
    """Tell systemd: "READY=1", "WATCHDOG=1", "STATUS=...".

    Return whether there is a systemd to tell.

    Source: sd_notify(3).
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        to.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)
    return True


def _number(path: Path, base: int = 10) -> float | None:
    try:
        return int(path.read_text().strip(), base)
    except (OSError, ValueError):
        return None
