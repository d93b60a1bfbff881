"""What everything else stands on: settings, errors, events, commands, locks, references."""
