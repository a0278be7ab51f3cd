"""What training and serving ask of a store: data sets ahead of their readers, weights as memory that is shared."""
