"""What all tests share: one thread each, so that tests that run side by side do not slow each other down."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
import shape_checks

shape_checks.install()
torch.set_num_threads(1)
