"""How fast, how large, how much better? Measured figures."""
