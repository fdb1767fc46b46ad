//! Messages of the control protocol.

use serde::{Deserialize, Serialize};

use crate::answer::{CommitRequest, Failure, FailureKind, RecordAt, ReloadRequest};
use crate::model::Seq;

/// Version of the protocol.
pub const PROTOCOL: u32 = 1;
/// Longest line of a request, bytes. Answers have no limit of their own: what bounds them is what they list.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;

/// An answer that lists more than this is a large one.
const MANY: usize = 1000;

/// What a client may ask.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "method", content = "params", rename_all = "kebab-case")]
pub enum Request {
    /// Publish local changes.
    Commit(CommitRequest),
    /// Move the view to another record.
    Reload(ReloadRequest),
    /// The state at a glance.
    Status {
        /// Ask the store for the newest record (at most a few seconds).
        #[serde(default)]
        ask_store: bool,
    },
    /// What would be committed, or what differs between two records.
    Diff {
        /// At most this many paths.
        limit: usize,
        /// The older record; without it local changes are meant.
        #[serde(default)]
        from: Option<RecordAt>,
        /// The newer record; without it the one that the mount stands on.
        #[serde(default)]
        to: Option<RecordAt>,
        /// Only at and below this path in the volume.
        #[serde(default)]
        path: Option<String>,
    },
    /// The newest records.
    Log {
        /// At most this many.
        limit: usize,
    },
    /// Stashes, newest first.
    StashList {},
    /// What a stash holds.
    StashShow {
        /// Its number.
        id: u64,
        /// At most this many paths.
        limit: usize,
    },
    /// Puts a stash's changes onto the view.
    StashRestore {
        /// Its number.
        id: u64,
    },
    /// Deletes a stash.
    StashDrop {
        /// Its number.
        id: u64,
    },
    /// Brings the bytes below a path into the cache.
    Prefetch {
        /// Path in the volume.
        path: String,
        /// Bring it even if the cache cannot hold it all.
        #[serde(default)]
        force: bool,
    },
    /// Events, as notifications, until the mount ends or the client goes.
    Watch {},
    /// Ends the mount.
    Unmount(UnmountRequest),
}

impl Request {
    /// Whether the answer may name very many paths or records.
    pub(super) fn lists_paths(&self) -> bool {
        match self {
            Request::Diff { limit, .. } | Request::Log { limit } | Request::StashShow { limit, .. } => {
                *limit > MANY
            }
            _ => false,
        }
    }
}

/// What `umount` is asked to do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnmountRequest {
    /// Commit first; a failed commit leaves the mount in place.
    pub commit: bool,
    /// Message of that commit.
    pub message: String,
    /// Unmount although files are open: the mount point goes at once, programs that still use it get errors.
    pub force: bool,
    /// Seconds for the commit.
    pub timeout_secs: Option<u64>,
}

/// What `umount` did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UnmountAnswer {
    /// Number of the record that the commit published.
    pub committed: Option<Seq>,
    /// Names and inodes that stay uncommitted in the state directory.
    pub dirty: u64,
    /// The state directory that keeps them.
    pub state_dir: String,
    /// The directory that was mounted.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub dir: String,
}

/// The server's first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the protocol.
    pub protocol: u32,
    /// Version of the program.
    pub sailvol: String,
    /// Name of the volume.
    pub volume: String,
    /// Where it is mounted.
    pub dir: String,
    /// The mount's name.
    pub name: String,
    /// The daemon.
    pub pid: u32,
    /// The mount is gone or going: the daemon puts down what it has, and ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ending: bool,
}

/// Error codes of JSON-RPC 2.0 and ours.
pub(super) mod code {
    pub const PARSE: i32 = -32700;
    pub const INVALID_REQUEST: i32 = -32600;
    pub const METHOD_NOT_FOUND: i32 = -32601;
    pub const INVALID_PARAMS: i32 = -32602;
    pub const MOUNT: i32 = -32000;
}

/// A line on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub jsonrpc: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub params: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub result: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<RpcError>,
}

/// The error member of an answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RpcError {
    pub code: i32,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub data: Option<Failure>,
}

impl Line {
    pub fn empty() -> Line {
        Line {
            jsonrpc: "2.0".into(),
            id: None,
            method: None,
            params: None,
            result: None,
            error: None,
        }
    }

    pub fn notification(method: &str, params: serde_json::Value) -> Line {
        Line {
            method: Some(method.into()),
            params: Some(params),
            ..Line::empty()
        }
    }

    /// A request that is none of this protocol, or a fault of the server itself.
    pub fn error(id: Option<u64>, code: i32, message: impl Into<String>) -> Line {
        let kind = match code {
            code::MOUNT => FailureKind::Failed,
            _ => FailureKind::Usage,
        };
        Line::failure(id, code, Failure::new(kind, message))
    }

    /// What went wrong, as clients of every kind understand it.
    pub fn failure(id: Option<u64>, code: i32, failure: Failure) -> Line {
        Line {
            id,
            error: Some(RpcError {
                code,
                message: failure.message.clone(),
                data: Some(failure),
            }),
            ..Line::empty()
        }
    }
}

/// What is said of a request that is longer than [`REQUEST_BYTES_MAX`].
pub(super) fn too_long(bytes: usize) -> Failure {
    let text = format!("the request takes {bytes} bytes, and at most {REQUEST_BYTES_MAX} (1 MiB) are taken");
    Failure::new(FailureKind::Usage, text).hint("a message or path is too long")
}

/// Why a line is no request; the code of the answer and a message.
pub(super) fn parse_request(bytes: &[u8]) -> Result<(u64, Request), Box<Line>> {
    let line: Line = serde_json::from_slice(bytes).map_err(|e| {
        Box::new(Line::error(
            None,
            code::PARSE,
            format!("not a JSON-RPC message: {e}"),
        ))
    })?;
    let fail = |id, code, message: String| Err(Box::new(Line::error(id, code, message)));
    if line.jsonrpc != "2.0" {
        return fail(line.id, code::INVALID_REQUEST, "jsonrpc must be \"2.0\"".into());
    }
    let (Some(id), Some(method)) = (line.id, line.method) else {
        return fail(
            line.id,
            code::INVALID_REQUEST,
            "a request has an id and a method".into(),
        );
    };
    let params = line.params.unwrap_or_else(|| serde_json::json!({}));
    match serde_json::from_value::<Request>(serde_json::json!({ "method": method, "params": params })) {
        Ok(request) => Ok((id, request)),
        Err(error) if error.to_string().starts_with("unknown variant") => fail(
            Some(id),
            code::METHOD_NOT_FOUND,
            format!("unknown method {method:?}"),
        ),
        Err(error) => fail(Some(id), code::INVALID_PARAMS, format!("{method}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_wire() {
        let sent = Request::Unmount(UnmountRequest {
            commit: true,
            ..Default::default()
        });
        let mut value = serde_json::to_value(&sent).unwrap();
        value["jsonrpc"] = "2.0".into();
        value["id"] = 7.into();
        let (id, got) = parse_request(value.to_string().as_bytes()).unwrap();
        assert_eq!(id, 7);
        assert!(matches!(got, Request::Unmount(r) if r.commit && !r.force));
    }

    #[test]
    fn what_is_no_request_gets_the_code_that_says_why() {
        for (text, code) in [
            ("nonsense", code::PARSE),
            (
                r#"{"jsonrpc":"1.0","id":1,"method":"status"}"#,
                code::INVALID_REQUEST,
            ),
            (r#"{"jsonrpc":"2.0","method":"status"}"#, code::INVALID_REQUEST),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"explode"}"#,
                code::METHOD_NOT_FOUND,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"diff","params":{"limit":"x"}}"#,
                code::INVALID_PARAMS,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"commit","params":{"mesage":"x"}}"#,
                code::INVALID_PARAMS,
            ),
        ] {
            assert_eq!(
                parse_request(text.as_bytes()).unwrap_err().error.unwrap().code,
                code,
                "{text}"
            );
        }
    }

    #[test]
    fn a_request_without_params_means_the_defaults() {
        let text = br#"{"jsonrpc":"2.0","id":1,"method":"commit"}"#;
        assert!(matches!(parse_request(text).unwrap().1, Request::Commit(c) if c.message.is_empty()));
    }
}
