"""The running stack, from outside: nothing but HTTP requests to its published ports."""
