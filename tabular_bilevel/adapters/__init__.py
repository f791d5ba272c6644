"""Other libraries' environments, to and from ours; each module needs its library, an extra."""
