"""What sources and sinks share about codecs: decoding to planes, y4m, Annex B, RTP, the one encoder."""
