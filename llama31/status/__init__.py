"""Where runs stand."""
