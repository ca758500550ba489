"""How old a live frame is when it is seen, through RTSP and in a browser."""
