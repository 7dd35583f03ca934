"""What the server sends out by itself: one way out, one rule about where it may lead.

`addresses` says which addresses may be connected to, `names` asks the DNS, `client` makes the requests.
Whoever follows a name or a URL of somebody else (federation, push gateways, previews) goes through `Egress`.
"""
