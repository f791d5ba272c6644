"""What everything stands on: arrays, arguments, errors, files, compiled code."""
