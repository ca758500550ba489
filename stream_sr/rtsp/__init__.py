"""RTSP, both ends: the client that plays (`client`), the one that publishes (`publisher_connection`), and our `server`.

Contains the server's sessions and streams, RTP (`rtp`, `rtcp`, `rtp_video`, `rtp_audio`), `sdp`, `address`, `auth`, and
audio in both directions. May import `inference` and the packages below it; it uses `codec`, `pipeline` and `system`.
Start reading in `server` or in `client`; packets are made and read in `rtp_video`.
"""
