//! The field names of a task's stream entry.

use crate::server::define_words;

define_words! {
    payload = b"payload", timestamp = b"timestamp", retry_count = b"retry_count",
    original_id = b"original_id", group = b"group",
    tries = b"tries", expire = b"expire_unix_ms",
    reason = b"reason", deliveries = b"deliveries", priority = b"priority",
}
