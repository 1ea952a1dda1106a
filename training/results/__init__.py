"""What a trained network is worth: figures and plots, and what is published of it."""
