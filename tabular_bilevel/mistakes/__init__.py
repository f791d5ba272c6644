"""What can be wrong, each with what it comes to."""
