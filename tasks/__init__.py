"""Tasks that build, share, run and measure the Docker images of a Compose project."""
