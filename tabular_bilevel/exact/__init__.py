"""From theta to the gradient, by every route."""
