"""Makes `python mini/cgan.py` work as well as `python -m mini.cgan`.

Started by its path, a script has its own folder first in Python's search path, and this file is
what it finds there as `mini`: it puts the folder above there instead, and stands in for the
package.
"""
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)
__path__ = [str(Path(__file__).parent)]
