"""Where bytes are kept: stores with exclusive create, and checkpoints committed on them."""
