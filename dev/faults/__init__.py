"""Run the product's commands under injected faults, and judge what they leave behind."""
