"""What people see: the live view of a search, and tables of what a study holds. Needs rich only."""
