"""Which packages does an image hold, and what was it made of, as documents that other tools read?"""
