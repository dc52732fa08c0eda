"""Clusters of vectors and of tokens that attend alike; methods and prototypes both use them."""
