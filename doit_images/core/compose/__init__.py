"""The Compose project: its configuration, its images, its secrets."""
