"""The gateway: routes, request and response forms, server process, limits."""
