"""Climbing: ascents, optimisers, training runs and their curves."""
