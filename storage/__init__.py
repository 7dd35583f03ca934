"""The storage port: one log, many collections, and nothing a document store could not do.

`storage.log` declares the log (the truth), `storage.collection` the typed records that lie beside
it, `storage.search` the index of words, `storage.store` what a backend gives to the composition root,
`storage.errors` what may go wrong, `storage.records` the record types.
Backends live in folders of their own and import only this port.
"""
