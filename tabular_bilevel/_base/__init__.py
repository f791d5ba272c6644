"""What everything stands on: arrays, arguments, errors, files, compiled code."""

__version__ = "0.1.0"
