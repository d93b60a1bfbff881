"""How do the images run? Up, down, developed, checked, migrated."""
