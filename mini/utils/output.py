"""What is printed can never stop a run."""
import contextlib
import io
import os
import sys


class Guarded:
    """A stream that goes on when it cannot print.

    A character that the console does not know becomes "?". When nobody reads any more (the terminal
    was closed, a pipe is broken), what is written from then on is thrown away.
    """

    def __init__(self, stream):
        self.stream = stream
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="replace")

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except UnicodeEncodeError:                      # a stream that cannot be reconfigured
            return self.write(text.encode("ascii", "replace").decode())
        except OSError:
            self.give_up()
            return len(text)

    def flush(self):
        try:
            self.stream.flush()
        except OSError:
            self.give_up()

    def give_up(self):
        """Send what is still in the buffer, and all that follows, to nowhere: else Python tries
        again as it ends, and says so."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name):
        return getattr(self.stream, name)


@contextlib.contextmanager
def guarded_output():
    """A context in which stdout and stderr are Guarded."""
    plain = sys.stdout, sys.stderr
    nowhere = io.StringIO()                 # what is closed before the start is None in Python
    sys.stdout, sys.stderr = Guarded(sys.stdout or nowhere), Guarded(sys.stderr or nowhere)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = plain
