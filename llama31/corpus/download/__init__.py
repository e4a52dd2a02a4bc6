"""Download of published files: over HTTPS from MLCommons' public storage, or from its bucket with rclone."""
