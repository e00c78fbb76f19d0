"""Runs a command on a pseudo-terminal of 24 lines and 80 columns, types what it is told when it is told to, and prints what it shows.

terminal.py STEPS COMMAND…; STEPS are JSON: ["wait", "text"] until the terminal shows the text, ["type", "text"], ["size", lines, columns],
["hang up"], which closes the terminal.
Ends with the command's exit code, or 99 where a text does not come within a minute.
"""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

steps, command = json.loads(sys.argv[1]), sys.argv[2:]


def resize(lines, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


child, terminal = pty.fork()
if child == 0:
    # The parent sets the size first.
    os.read(0, 1)
    os.execvp(command[0], command)
resize(24, 80)
os.write(terminal, b"\n")
shown, seen = b"", 0
deadline = time.monotonic() + 60


def read_some():
    """Reads what is there; whether there may be more."""
    global shown
    if not select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0]:
        print(shown.decode(errors="replace"))
        print(f"did not come: {step}", file=sys.stderr)
        os.kill(child, signal.SIGKILL)
        sys.exit(99)
    try:
        part = os.read(terminal, 65536)
    except OSError:
        # Linux says so where the last process of a terminal is gone.
        part = b""
    shown += part
    return bool(part)


for step in steps:
    if step[0] == "wait":
        text = step[1].encode()
        while text not in shown[seen:]:
            if not read_some():
                print(shown.decode(errors="replace"))
                print(f"ended before: {step}", file=sys.stderr)
                sys.exit(99)
        seen = shown.index(text, seen) + len(text)
    elif step[0] == "type":
        os.write(terminal, step[1].encode())
    elif step[0] == "hang up":
        os.close(terminal)
        os.waitpid(child, 0)
        sys.exit(0)
    else:
        resize(step[1], step[2])
step = "the end"
while read_some():
    pass
print(shown.decode(errors="replace"))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
