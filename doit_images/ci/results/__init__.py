"""What passed before, so that it need not be run again: on this machine, and in the shared registry."""
