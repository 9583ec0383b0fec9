"""Settings of all tests."""

import os
from pathlib import Path

# Tests change the working directory. Python's fork server, started there, finds the packages only
# through this variable; without them every worker that it forks imports everything again.
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
