"""The page in the browser: the sink (`sink`), its HTTP and WebSocket server (`server`), and one viewer (`viewer`).

The password is checked in `access`.
"""
