"""Intervals, paired comparisons and sufficiency tests."""
