"""Where the score is lost; what a network sees."""
