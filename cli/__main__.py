"""`python -m holdshort.cli` is the `holdshort` command."""

from . import main

main()
