"""What kipx says on stderr, beside its progress: a line at a time, `kipx: ` before it."""

import contextlib
import sys

from kipx import checks


def note(text):
    """Prints text as one line of characters that can be seen, if anybody still can."""
    with contextlib.suppress(OSError):
        print(f"kipx: {checks.printable(text)}", file=sys.stderr)
