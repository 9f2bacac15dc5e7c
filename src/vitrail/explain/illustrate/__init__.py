"""`illustrate`: one page that walks through a Vision Transformer on one image, every number of it from the trace."""

from vitrail.explain.illustrate.page import illustrate, render
from vitrail.explain.illustrate.walk import Walk, gather

__all__ = ["Walk", "gather", "illustrate", "render"]
