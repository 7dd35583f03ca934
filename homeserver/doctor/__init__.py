"""`weft doctor`: looks at everything that a server needs, and says what is wrong and how to mend it.

It runs beside a server, and asks that one where there is one; a store that no server has open is opened as
a server would. Nothing else is changed. `machine` looks at files, addresses and certificates, `stored` at
the store, `replicas` at the servers that run (`health` is what they tell of themselves), `diagnosis` puts
it together.
"""
