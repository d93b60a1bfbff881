"""What takes space, and what of it may go."""
