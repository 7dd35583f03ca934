"""The client-server API: one module per module of the spec.

Each route parses, authorizes, calls one function of the domain and shapes the answer.

Beside them: http (how routes are declared, and who calls), pages (for browsers), admin (the API of
administrators), replicas (between replicas), health and metrics_page (for operators).
"""
