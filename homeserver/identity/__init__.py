"""Who people are by their e-mail addresses and telephone numbers, as identity servers know it.

`addresses` brings an address into its one form, `servers` asks the identity servers that are trusted,
`bindings` knows what users published there, `keys` asks whether what one vouched for still holds.
"""
