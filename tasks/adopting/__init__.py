"""Another project takes these tasks in, and has them brought to a newer version."""
