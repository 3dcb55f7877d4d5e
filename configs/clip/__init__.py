"""CLIPs of published sizes."""
