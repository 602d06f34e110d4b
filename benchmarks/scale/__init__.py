"""Real sizes, side by side with peers and with what the machine allows."""
