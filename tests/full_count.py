"""Whether the tests of tests/chaos run at their full count (`make chaos`) or at that of every day."""

import os

KILLS = int(os.environ.get("D2V_CHAOS_KILLS", "1"))
CHAOS = "D2V_CHAOS_KILLS" in os.environ
