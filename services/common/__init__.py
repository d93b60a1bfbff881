"""What the services share: settings, logs, answers to errors, limits, stores, health, and who is asking."""
