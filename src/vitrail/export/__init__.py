"""Models as files for other programs, each proven in a fresh process to compute what its source does."""
