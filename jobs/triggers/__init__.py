"""Ways in which jobs arrive without a caller."""
