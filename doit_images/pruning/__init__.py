"""What takes space, and what of it can go."""
