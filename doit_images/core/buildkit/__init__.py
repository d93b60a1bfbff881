"""BuildKit: how it is called, what it says, where it keeps its cache, what it gives back."""
