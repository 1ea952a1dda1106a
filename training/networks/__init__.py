"""The networks, the layers they are made of, and how each is trained."""
