"""What machines share: finished images, and who builds what."""
