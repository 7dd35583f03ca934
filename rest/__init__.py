"""What the client-server and the server-server API have in common: routes, requests, answers, connections.

routes          routes (how they are declared and served), paths (which one a request is for)
requests        call, bodies, client_address (behind proxies), connections (limits of time)
answers         answers (and errors), json_response (with the headers of CORS)
for both APIs   files (of the content repository), public_rooms
"""
