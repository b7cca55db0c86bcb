"""How far a long count has come, so that nothing takes long in silence."""
import sys
import time


class Progress:
    """Prints every few seconds how far a count has come, as in "translated 512 of 2,000". If it
    takes no longer than that, nothing is printed. first: the seconds before the first line, if
    they are not as many."""

    def __init__(self, doing: str, total: int, seconds: float = 4.0, first: float | None = None):
        self.doing = doing
        self.total = total
        self.seconds = seconds
        self.wait = seconds if first is None else first
        self.done = 0
        self.last = time.perf_counter()         # when a line was last printed

    def add(self, n: int = 1):
        """Count n more."""
        self.done += n
        now = time.perf_counter()
        if now - self.last >= self.wait and self.done < self.total:
            clear_line = "\r\x1b[K" if sys.stdout.isatty() else ""
            print(f"{clear_line}    {self.doing} {self.done:,} of {self.total:,}", flush=True)
            self.last = now
            self.wait = self.seconds
