"""Prints what was checked, and turns it into an exit code."""

import sys
import traceback
from contextlib import contextmanager


class Report:
    """Runs checks one after another; a failed one does not stop the next."""

    def __init__(self):
        self.checked = 0
        self.failed = 0

    @contextmanager
    def check(self, what):
        """Everything inside must hold. Yields a function that adds a detail to the line."""
        details = []
        self.checked += 1
        try:
            yield lambda *parts: details.append(" ".join(str(part) for part in parts))
        except Exception as error:
            self.failed += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"FAIL  {what}: {type(error).__name__}: {error} ({where.name}, line {where.lineno})", flush=True)
        else:
            print(f"ok    {what}" + (f": {'; '.join(details)}" if details else ""), flush=True)

    def finish(self):
        """Exits with 0 if every check passed and there was one, 1 otherwise."""
        print(f"{self.checked - self.failed} of {self.checked} checks passed")
        sys.exit(0 if self.checked and not self.failed else 1)


def equal(got, expected, what="value"):
    """Fails with both sides in the message."""
    if got != expected:
        raise AssertionError(f"{what} is {got!r}, expected {expected!r}")


def refused(call, *errors):
    """Fails unless the call raises one of these errors; returns the error."""
    try:
        result = call()
    except errors as error:
        return error
    raise AssertionError(f"accepted, with {result!r}")
