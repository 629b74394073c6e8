"""Put an undefined instruction in the place of every CPUID of some libraries; see hide.c.

python hide.py LIBRARY.so...
"""

import subprocess
import sys
from pathlib import Path

CPUID = b"\x0f\xa2"
UNDEFINED = b"\x0f\x0b"


def main() -> None:
    """Change the files named on the command line in place."""
    for name in sys.argv[1:]:
        sections = subprocess.run(
            ["objdump", "-h", name], capture_output=True, text=True, check=True
        ).stdout
        _, _, _, address, _, offset, *_ = next(
            line.split() for line in sections.splitlines() if " .text " in line
        )
        code = subprocess.run(
            ["objdump", "-d", "-j", ".text", "--no-show-raw-insn", name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        data = bytearray(Path(name).read_bytes())
        found = [int(line.partition(":")[0], 16) for line in code.splitlines() if "\tcpuid" in line]
        for place in found:
            at = place - int(address, 16) + int(offset, 16)
            if data[at : at + 2] != CPUID:
                raise SystemExit(f"{name}: no CPUID at {place:#x}")
            data[at : at + 2] = UNDEFINED
        if not found:
            raise SystemExit(f"{name}: no CPUID in it")
        Path(name).write_bytes(data)


if __name__ == "__main__":
    main()
