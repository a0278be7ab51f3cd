"""Checkpoint jobs: what their rows are, and what has to happen once all are done."""
