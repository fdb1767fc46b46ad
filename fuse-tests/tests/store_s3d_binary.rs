//! The S3 test server as a program.

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use sailvol::store::{ObjectStore, PutMode, StoreOptions, StoreUrl, open_with};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

struct Server {
    child: Child,
    endpoint: String,
}

impl Server {
    fn start(args: &[&str]) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_s3d"))
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let endpoint = line.trim().strip_prefix("listening on ").unwrap().to_string();
        Server { child, endpoint }
    }

    fn control(&self, request: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.endpoint.strip_prefix("http://").unwrap()).unwrap();
        let len = body.len();
        write!(
            stream,
            "{request} HTTP/1.1\r\nhost: x\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{request}: {answer}");
        answer.split_once("\r\n\r\n").unwrap().1.to_string()
    }

    /// Most memory that it ever had resident, KiB.
    fn resident_max_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn end(mut self) {
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After `end` it is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn store(server: &Server, dir: &std::path::Path) -> Arc<dyn ObjectStore> {
    let file = dir.join("credentials");
    std::fs::write(
        &file,
        "[default]\naws_access_key_id = a\naws_secret_access_key = b\n",
    )
    .unwrap();
    let url = StoreUrl::parse(&format!("s3://one/p?endpoint={}", server.endpoint)).unwrap();
    let options = StoreOptions {
        credentials_file: Some(file),
        ..StoreOptions::default()
    };
    open_with(&url, &options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_controlled_over_http_and_keeps_its_objects() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let args = [
        "--data", data, "--bucket", "one", "--bucket", "two", "--key", "a:b",
    ];
    let server = Server::start(&args);
    let first = store(&server, dir.path()).await;
    let body = Bytes::from_static(b"kept");
    first.put("a/b", body.clone(), PutMode::IfAbsent).await.unwrap();

    let rule = r#"{"verb":"put_if","key_contains":"slot","times":1,"action":"drop_after"}"#;
    server.control("POST /_s3d/faults", rule);
    first
        .put("slot", body.clone(), PutMode::IfAbsent)
        .await
        .unwrap_err();
    server.control("PUT /_s3d/settings", r#"{"delay_ms":1,"clock_offset_s":86400}"#);
    assert!(
        server
            .control("GET /_s3d/settings", "")
            .contains("\"clock_offset_s\":86400")
    );
    let now = first.get("slot", None).await.unwrap().server_time.unwrap();
    let modified = first.get("a/b", None).await.unwrap().modified.unwrap();
    assert!(now.secs > modified.secs + 80_000);
    let counters: serde_json::Value =
        serde_json::from_str(&server.control("GET /_s3d/counters", "")).unwrap();
    assert_eq!(counters["verbs"]["put_if"]["requests"], 2);
    assert_eq!(counters["verbs"]["put_if"]["faults"], 1);
    let log: serde_json::Value = serde_json::from_str(&server.control("GET /_s3d/log", "")).unwrap();
    assert_eq!(log[0]["key"], "one/p/a/b");
    server.end();

    let server = Server::start(&args);
    let second = store(&server, dir.path()).await;
    assert_eq!(second.get("a/b", None).await.unwrap().bytes, body);
    server.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn its_memory_does_not_grow_with_bodies() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&["--bucket", "one", "--key", "a:b"]);
    let store = store(&server, dir.path()).await;
    let body = Bytes::from(vec![5; 64 << 20]);
    let keys = ["a", "b", "c", "d"];
    let puts = keys.map(|key| store.put(key, body.clone(), PutMode::Overwrite));
    for put in futures::future::join_all(puts).await {
        put.unwrap();
    }
    for fetched in futures::future::join_all(keys.map(|key| store.get(key, None))).await {
        assert!(fetched.unwrap().bytes == body);
    }
    let resident = server.resident_max_kib();
    assert!(resident < 48 * 1024, "{resident} KiB");
    server.end();
}
