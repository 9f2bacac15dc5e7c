"""Weights: loaded from every format that is read, written as a model folder."""
