"""How one image becomes what its inputs say."""
