"""The page in the browser, see `sinks.open_sink` for its address.

Contains the sink (`sink`), its HTTP and WebSocket server (`server`), one connected browser (`client`), the check of the
password (`auth`), the messages (`messages`) and the page itself (``page.html``). May import `sinks` and the packages
below it; it uses `codec`, `pipeline`, `video` and `system`. Start reading in `sink`.
"""
