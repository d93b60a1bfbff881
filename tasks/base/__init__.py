"""What everything else stands on: settings, errors, processes, locks, references."""
