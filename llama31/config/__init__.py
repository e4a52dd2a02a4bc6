"""From what a user gives to checked settings, and what follows from them."""
