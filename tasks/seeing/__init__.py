"""What do people see? Progress, failures, history, reports."""
