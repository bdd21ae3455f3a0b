"""What models have learned, beside each other and over several seeds."""
