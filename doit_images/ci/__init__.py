"""Tasks for CI: plans of commits, tests of images, verification, bills of materials, newer packages."""
