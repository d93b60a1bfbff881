"""Which packages does an image hold, as a document that other tools read?"""
