"""Bridges to other libraries, one a file; each needs the extra of its name."""
