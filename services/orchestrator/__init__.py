"""What should be done? A task is a prompt: answered by the model, with what memory knows, and remembered."""
