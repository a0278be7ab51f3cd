"""The engine of checkpoint jobs: copies, reads and removes checkpoints, a slice at a time."""
