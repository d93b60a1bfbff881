"""What is an image made of? Dockerfiles, ignore files, contexts, and the number that they come to."""
