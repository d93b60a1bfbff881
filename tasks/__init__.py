"""What only this repository has: its base image, its stores, its tests and its measurements."""
