"""What happens while a run trains."""
