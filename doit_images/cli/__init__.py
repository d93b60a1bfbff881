"""What doit sees: the tasks and their options."""
