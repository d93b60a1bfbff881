"""What did they say? Session memory (soon forgotten) and semantic memory (searched by meaning)."""
