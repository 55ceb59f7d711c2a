"""What all tests share: few threads, so that tests that run side by side do not slow each other down."""

import torch

torch.set_num_threads(2)
