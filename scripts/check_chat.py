"""Checks `lemma chat` as its user meets it, in a terminal of 80 by 24: questions, history, Ctrl-C, errors, the end.

    python scripts/check_chat.py http://127.0.0.1:8402 owner/model LEMMA NETWORK-PROCESS

NETWORK-PROCESS is the process that serves: it is stopped for a moment, so that an answer does not come.
"""

import argparse
import fcntl
import os
import pty
import select
import signal
import struct
import tempfile
import termios
import time
from pathlib import Path

from report import Report, equal

PROMPT = b"> "
CTRL_C, CTRL_D, UP = b"\x03", b"\x04", b"\x1b[A"


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, command, environment):
        self.process, self.descriptor = pty.fork()
        if self.process == 0:
            os.execvpe(command[0], command, environment)
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def type(self, keys):
        os.write(self.descriptor, keys)

    def until(self, *expected, seconds=20):
        """What appears until all of these have, in this order."""
        seen, place = b"", 0
        end = time.monotonic() + seconds
        for text in expected:
            while (found := seen.find(text, place)) < 0:
                left = end - time.monotonic()
                if left <= 0 or not select.select([self.descriptor], [], [], left)[0]:
                    raise AssertionError(f"{text!r} did not appear: {seen!r}")
                seen += os.read(self.descriptor, 1 << 16)
            place = found + len(text)
        return seen

    def status(self):
        _, status = os.waitpid(self.process, 0)
        return os.waitstatus_to_exitcode(status)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("api", help="base URL of a gateway")
    parser.add_argument("model", help="name of a language model with a context of 512")
    parser.add_argument("lemma", help="the program")
    parser.add_argument("network", type=int, help="the process that serves")
    arguments = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as home:
        data = Path(home) / "data"
        variables = {"HOME": home, "TERM": "xterm-256color", "LEMMA_API": arguments.api, "LEMMA_DATA_DIR": str(data)}
        chat = Terminal([arguments.lemma, "chat", arguments.model], {**os.environ, **variables})
        with report.check("a question is answered, with its receipt"):
            chat.until(b"Ctrl-D or /exit ends", PROMPT)
            chat.type(b"What is 3 + 4?\r")
            seen = chat.until(b"checked", b"receipt 0x", PROMPT)
            assert b"warning" not in seen, seen
        with report.check("what was asked is in the history, for the user alone"):
            chat.type(UP)
            chat.until(b"What is 3 + 4?")
            chat.type(CTRL_C)
            chat.until(PROMPT)
            equal((data / "chat-history").stat().st_mode & 0o777, 0o600)
        with report.check("Ctrl-C stops an answer, and the conversation goes on"):
            os.kill(arguments.network, signal.SIGSTOP)
            try:
                chat.type(b"What is 2 + 4?\r")
                time.sleep(0.5)
                chat.type(CTRL_C)
                chat.until(b"stopped", PROMPT)
            finally:
                os.kill(arguments.network, signal.SIGCONT)
            chat.type(b"What is 5 + 4?\r")
            chat.until(b"receipt 0x", PROMPT)
        with report.check("an error is shown, and the conversation goes on"):
            chat.type(b"x" * 600 + b"\r")
            chat.until(b"error", b"/clear", PROMPT)
            chat.type(b"/clear\r")
            chat.until(PROMPT)
            chat.type(b"What is 1 + 1?\r")
            chat.until(b"receipt 0x", PROMPT)
        with report.check("Ctrl-D ends it"):
            chat.type(CTRL_D)
            equal(chat.status(), 0)
    report.finish()


if __name__ == "__main__":
    main()
