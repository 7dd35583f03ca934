"""What the client-server and the server-server API have in common: routes, requests, answers, connections."""
