"""What was built before, and what that says."""
