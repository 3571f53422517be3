"""Who may do what: workspaces, members and their roles, API keys, secrets. `access.authorise` is the only way in."""
