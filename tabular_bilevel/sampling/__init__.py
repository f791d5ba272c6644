"""What is sampled of a follower's answer, and what critics make of it."""
