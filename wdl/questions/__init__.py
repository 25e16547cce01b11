"""The problems that models are asked, and the sets they come from."""
