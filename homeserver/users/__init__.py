"""Who uses the server: accounts, sessions and devices, keys, profiles, account data."""
