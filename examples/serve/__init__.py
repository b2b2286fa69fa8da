"""A service that classifies images, whose model is swapped for its accelerated twin while requests come in."""
