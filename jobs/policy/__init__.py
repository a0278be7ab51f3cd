"""Scheduling policy: pure functions of plain values."""
