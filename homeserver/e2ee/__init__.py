"""What the server keeps of end-to-end encryption: public keys, who must learn of them, sealed backups."""
