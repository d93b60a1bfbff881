"""What a CI asks: do images pass, what do they hold, are they what the sources give, which packages are behind."""
