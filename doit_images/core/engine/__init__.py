"""The Docker engine: its API, its containers, the contexts that lead to it."""
