"""Makes the helpers of this folder importable, also for the second process of a test, which runs them as a script."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from command_line import d2v  # noqa: F401  (a fixture)
