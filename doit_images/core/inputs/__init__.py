"""What each image is made of: its Dockerfile, the files that it reads, and the fingerprint of all that."""
