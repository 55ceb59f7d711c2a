"""Where healthy ends: each limit with the worst figure of the healthy runs that it comes from."""

from d2v.monitoring.faults.rule import Limit

# Data.
REPEATED = Limit(0, 0.2)
CONSTANT = Limit(0, 0.2)
LIKENESS = Limit(0.017, 0.2)
TOKEN_TYPES = Limit(190, 60, above=False)
LEVELS = Limit(2560, 200, above=False)
CLIPPED = Limit(6.2e-5, 0.005)
FAST = Limit(169, 260)
FAST_AND_FLAT = Limit(180, 200)
FLAT_BANDS = -0.6
SLOW = Limit(105, 90, above=False)
HIGH_BANDS = Limit(-0.81, 0)
OUTSIDE = Limit(0, 0.05)
RANGE = Limit(0.957, 0.5, above=False)
PADDING = Limit(0.2, 0.5)
SAMPLES = Limit(3, 1, above=False)

# Learning.
NO_RATE = Limit(1e-5, 0, above=False)
UPDATE = Limit(0.052, 0.15)
GROWTH = Limit(2.4, 5)
SHRINKING = Limit(0.95, 0.8, above=False)
FIRST_RATE = Limit(0.281, 0.95)
STILL = Limit(0.0134, 0.5)
CUT = Limit(2.04, 100)
SMALL_MOVES = Limit(0.0628, 0.01, above=False)
LARGE_MOVES = Limit(0.512, 0.8)
EXPLAINED = Limit(0.0269, 0.005, above=False)

# Teacher, targets, masks.
FAST_TEACHER = Limit(0.0181, 0.1)
STILL_TEACHER = Limit(1e-5, 1e-6, above=False)
EXTRACTOR = Limit(0.558, 0.3, above=False)
LARGE_TARGETS = Limit(1, 1.3)
SMALL_TARGETS = Limit(0.9, 0.6, above=False)
LITTLE_MASKED = Limit(0.15, 0.08, above=False)
MUCH_MASKED = Limit(0.8, 0.93)

# How it goes.
SKIPPED_FP16 = Limit(0, 0.2)
SKIPPED = Limit(0, 0.02)
WAIT = Limit(0.049, 0.5)
UNTRAINED = Limit(47, 99)
