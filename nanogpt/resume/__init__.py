"""Parts of resumable runs."""
