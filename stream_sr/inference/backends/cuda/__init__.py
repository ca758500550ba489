"""What the GPU backends share: page-locked memory (`pinned`) and the overlap of copies and computing (`schedule`)."""
