"""What a run writes into its directory, and how it is read back."""
