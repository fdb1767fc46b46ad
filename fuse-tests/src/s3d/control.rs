//! Settings and counters over HTTP, for the binary: unsigned, on loopback, below `/_s3d/`.
//!
//! | request | does |
//! |---|---|
//! | `GET settings` | the settings as JSON |
//! | `PUT settings` | changes the given members, e.g. `{"delay_ms":30,"bandwidth":25000000}` |
//! | `POST faults` | adds a rule, e.g. `{"verb":"get","times":2,"action":{"reject":{"status":503}}}` |
//! | `DELETE faults` | removes all rules |
//! | `POST release` | lets go what is stalled or held |
//! | `GET counters`, `DELETE counters` | counters as JSON; resets them and the log |
//! | `GET log` | finished requests as JSON |

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{Method, Request, Response};
use s3s::Body;
use serde_json::Value;

use super::front::Front;
use super::settings::FaultRule;
use super::shape::BoxError;

/// Path of everything here.
pub(super) const ROOT: &str = "/_s3d/";
/// Longest request, bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;

pub(super) async fn serve(
    front: &Front,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Body>, BoxError> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await?.to_bytes();
    let what = head.uri.path().strip_prefix(ROOT).unwrap_or("");
    let (status, answer) = match run(front, &head.method, what, &body) {
        Ok(Some(answer)) => (200, answer),
        Ok(None) => (404, Value::from("no such control")),
        Err(error) => (400, Value::from(error.to_string())),
    };
    let text = serde_json::to_vec(&answer)?;
    Ok(Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Body::from(text))?)
}

fn run(front: &Front, method: &Method, what: &str, body: &Bytes) -> Result<Option<Value>, serde_json::Error> {
    let done = Value::from(true);
    Ok(Some(match (method.as_str(), what) {
        ("GET", "settings") => serde_json::to_value(&*front.settings.read())?,
        ("PUT", "settings") => {
            let changes: serde_json::Map<String, Value> = serde_json::from_slice(body)?;
            let mut settings = front.settings.write();
            let mut whole = serde_json::to_value(&*settings)?;
            if let Some(members) = whole.as_object_mut() {
                members.extend(changes);
            }
            *settings = serde_json::from_value(whole)?;
            done
        }
        ("POST", "faults") => {
            let rule: FaultRule = serde_json::from_slice(body)?;
            front.faults.lock().add(rule);
            done
        }
        ("DELETE", "faults") => {
            front.faults.lock().clear();
            done
        }
        ("POST", "release") => {
            front.release();
            done
        }
        ("GET", "counters") => serde_json::to_value(front.counters())?,
        ("DELETE", "counters") => {
            front.reset();
            done
        }
        ("GET", "log") => serde_json::to_value(front.log())?,
        _ => return Ok(None),
    }))
}
