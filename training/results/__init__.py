"""What a trained network is worth: figures, plots, cards, and what is published of it."""
