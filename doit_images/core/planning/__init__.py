"""What would be done about each image, and why."""
