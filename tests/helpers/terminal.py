"""What a person sees of a program: a pseudo-terminal of some columns, and what stands on it in the end."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence

# the control sequences that rich writes; colours and the cursor's visibility change no letter
CONTROL = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])")


def run_in_terminal(command: Sequence[str], columns: int, **environment: str) -> list[str]:
    """Return the lines on a terminal after a command has ended there, which must succeed."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    known = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=known | {"TERM": "xterm-256color"} | environment
    )
    os.close(slave)
    written = b""
    while True:
        try:
            part = os.read(master, 1 << 16)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not part:
            break
        written += part
    os.close(master)
    assert process.wait() == 0, written.decode()[-2000:]
    return screen(written.decode(), columns)


def screen(text: str, columns: int) -> list[str]:
    """Return what a terminal shows of what was written to it, without spaces at the ends of lines."""
    lines: list[list[str]] = [[]]
    row = column = place = 0
    while place < len(text):
        if control := CONTROL.match(text, place):
            place = control.end()
            if control[2] == "A":
                row -= int(control[1] or 1)
            elif control[2] == "K" and control[1] == "2":
                lines[row] = []
            continue
        letter, place = text[place], place + 1
        if letter == "\r":
            column = 0
        elif letter == "\n":
            row += 1
        else:
            if column == columns:
                row, column = row + 1, 0
            lines += [[] for _ in range(row + 1 - len(lines))]
            lines[row] += [" "] * (column + 1 - len(lines[row]))
            lines[row][column] = letter
            column += 1
        lines += [[] for _ in range(row + 1 - len(lines))]
    return ["".join(line).rstrip() for line in lines]
