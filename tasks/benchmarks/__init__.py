"""How fast this is, measured here and now."""
