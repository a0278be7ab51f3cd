"""What benchmarks/storage.py measures: each module has the arms of one kind of work, and a row or two of them."""
