"""The write path: objects that are there as a whole or not at all, in parts that go up many at once."""
