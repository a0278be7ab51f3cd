"""Workers: the lane, engines, and the runner that advances a stripe."""
