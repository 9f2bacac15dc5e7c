"""Predictions by the thousand: to a file as they come, continued after a stop, in parts on many machines."""
