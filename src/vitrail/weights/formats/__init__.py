"""One published layout of weights a file; they do not know each other."""
