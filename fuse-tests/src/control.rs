//! A mount's control socket, spoken to directly: a test that commits a thousand times does not start a program each time.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::pod::Pod;

/// A connection to the daemon of a pod.
#[derive(Debug)]
pub struct Control(BufReader<UnixStream>);

impl Control {
    /// Connects.
    ///
    /// # Panics
    /// When the pod is not mounted.
    pub fn connect(pod: &Pod) -> Control {
        let stream = UnixStream::connect(pod.socket()).expect("the daemon listens");
        let mut control = Control(BufReader::new(stream));
        assert_eq!(control.line()["method"], "hello");
        control
    }

    /// Commits; gives the answer.
    ///
    /// # Panics
    /// When the commit fails.
    pub fn commit(&mut self) -> Value {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": "commit", "params": {"message": "test"}});
        writeln!(self.0.get_mut(), "{request}").expect("the daemon reads");
        loop {
            let line = self.line();
            assert_eq!(line.get("error"), None, "{line}");
            if let Some(result) = line.get("result") {
                return result.clone();
            }
        }
    }

    fn line(&mut self) -> Value {
        let mut text = String::new();
        self.0.read_line(&mut text).expect("the daemon answers");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"))
    }
}

/// What a commit found open for writing.
pub fn still_written(answer: &Value) -> Vec<String> {
    let paths = answer["still_written"].as_array().into_iter().flatten();
    paths
        .filter_map(|path| path.as_str().map(str::to_owned))
        .collect()
}
