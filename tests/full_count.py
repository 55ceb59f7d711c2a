"""How much the tests of tests/chaos do: in full with `make chaos`, a little in the tests of every day."""

import os

CHAOS = "D2V_CHAOS" in os.environ
KILLS = 100 if CHAOS else 1
KILLED_SAVES = 100 if CHAOS else 2
RANDOM_CONFIGS = 500 if CHAOS else 8
STEPS = 5000
RESUMED_RUNS = 30
