"""The stiffness that a substrate may have."""

STIFFNESS_MIN, STIFFNESS_MAX = 0.1, 200.0
"""kPa; values outside are refused."""
