"""Published files to a directory: over HTTPS from MLCommons' public storage, or from its bucket with rclone."""
