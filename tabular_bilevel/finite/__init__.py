"""The road on tables: a model, its follower, its leader, and the derivative of J in the tables."""
