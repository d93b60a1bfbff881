"""What everything else stands on: settings, errors, commands, locks, references."""
