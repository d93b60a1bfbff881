"""How the images run: up, down, edited, one stack for each checkout, data saved."""
