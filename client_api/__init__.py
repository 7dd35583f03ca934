"""The client-server API: one module per module of the spec.

Each route parses, authorizes, calls one function of the domain and shapes the answer.
"""
