"""Which images are stale, why, and how they are built; nothing of other machines, stacks or CI."""
