"""The read path: ranges of remote objects, many at once, into memory that is used again."""
