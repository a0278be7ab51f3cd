"""The cache on this machine's disk: blocks of objects, shared by all processes of a user, each block verified."""
