"""Engines: what turns rows into results, and how one is found by name."""
