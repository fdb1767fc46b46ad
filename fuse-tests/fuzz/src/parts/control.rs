//! Messages.

#[path = "../../../../src/control/protocol.rs"]
mod protocol;

pub use protocol::{Hello, REQUEST_BYTES_MAX, PROTOCOL, Request, UnmountAnswer, UnmountRequest};

/// The request in a line, or the answer that says why there is none.
pub fn parse(line: &[u8]) -> Result<(u64, Request), serde_json::Value> {
    protocol::parse_request(line).map_err(|answer| serde_json::to_value(*answer).expect("answers are JSON"))
}
