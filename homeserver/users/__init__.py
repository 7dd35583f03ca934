"""Who uses the server.

accounts        accounts, registration, registration_tokens, application_services, deactivation,
                moderation
proving         logins, passwords, sessions, devices, last_seen, tokens (secrets handed out), uia,
                uia_stages, openid
what they say   profiles, remote_profiles, account_data, tags, ignoring, invite_permission
in memory       users; shared_rooms (who may know of whom)
"""
