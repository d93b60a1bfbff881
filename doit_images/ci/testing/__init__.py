"""The tests of images: which there are, what they can see, whether they passed on that before, and how they are run."""
