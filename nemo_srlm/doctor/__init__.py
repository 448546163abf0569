"""Is this machine fit? What is installed, and short checks of everything that a run needs (`nemo-srlm doctor`)."""
