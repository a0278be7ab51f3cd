"""Checkpoints: whole steps in a store, or none."""
