"""Weights as arrays: the header first, then what is wanted, as memory that the processes of a machine share."""
