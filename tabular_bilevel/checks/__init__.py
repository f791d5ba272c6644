"""Comparing two ways to the same number."""
