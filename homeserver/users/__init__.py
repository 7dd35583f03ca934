"""Who uses the server: accounts, sessions and devices, profiles, account data."""
