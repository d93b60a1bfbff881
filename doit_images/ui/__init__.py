"""What people see: the board, tables, reports."""
