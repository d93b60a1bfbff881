"""The images of one machine: read, planned, built, remembered. It imports nothing of the rest."""
