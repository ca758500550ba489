"""RTSP at both ends: the protocol, its sessions and its packets. Sources and sinks are thin layers above.

Contains the reader's connection (`client`, `client_connection`), the publisher's (`publish_connection`), our server
(`server`, `session`, `mount`), `auth`, `sdp`, and RTP: `rtp`, `rtp_video`, `rtp_audio`. May import `inference` and
below, of which it uses `codec`, `pipeline`, `video` and `system`. Start reading in `server` or `client`.
"""
