"""What the lines of Dockerfiles cost over the last commits, and what of that was needless."""
