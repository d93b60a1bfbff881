"""What takes space, and what of it is reclaimable."""
