"""What machines share: finished images, whose are taken, and who builds what."""
