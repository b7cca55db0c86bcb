"""Questions typed at the terminal, one after the other."""
import sys

from mini.utils.config import printable, require


def chat_lines(greeting: str):
    """The lines typed on standard input, until it ends; empty lines are left out."""
    require(sys.stdin, "there is no input to read questions from; ask one by --prompt")
    print(f"{greeting} Ctrl-D ends.")
    if hasattr(sys.stdin, "reconfigure"):               # IDLE's has not
        sys.stdin.reconfigure(errors="replace")         # bytes that are no text do no harm
    while True:
        print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:                                    # the input has ended
            print()
            return
        if line.strip():
            yield printable(line.strip())
