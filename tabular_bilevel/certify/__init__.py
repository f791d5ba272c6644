"""How far numbers can be trusted: bounds, enclosures, certificates."""
