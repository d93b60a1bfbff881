"""What is done about each image? Planning, building, naming, recording."""
