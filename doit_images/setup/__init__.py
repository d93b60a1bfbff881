"""Taking the package into a project, and out of it again."""
