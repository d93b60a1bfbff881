"""Which packages are behind, and how are they brought up to date?"""
