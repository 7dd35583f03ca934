"""Real servers for the tests, installed by package coordinates and started by them."""
