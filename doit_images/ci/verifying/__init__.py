"""Is what is here, and what runs, exactly what the sources give, and if not, what differs?"""
