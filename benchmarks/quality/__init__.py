"""How good the enlarged frames are: PSNR, SSIM and temporal consistency, and quality against time."""
