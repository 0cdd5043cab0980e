//! Where backups live: folder, memory, S3, GCS, Azure, and the layers over them.
