"""What kipx says on stderr, beside its progress: a line at a time, `kipx: ` before it."""

import contextlib
import sys

from kipx import checks


def note(text):
    """Prints text as one line of characters that can be seen, if anybody still can."""
    tell(f"kipx: {checks.printable(text)}")


def tell(line):
    """Prints a line; a stderr that is gone stops nothing."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)
