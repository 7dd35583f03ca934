"""What the server keeps of end-to-end encryption: public keys, who must learn of them, sealed backups.

keys            device_keys (upload, query, claim), one_time_keys (and fallback keys), cross_signing;
                identities (what all users publish), key_objects (what keys look like), dehydrated (devices
                that nobody runs)
others' keys    remote_lists, key_answers, key_servers (the port); told_keys is what they are told
backups         key_backup
messages        to_device (sending), device_messages (as values)
"""
