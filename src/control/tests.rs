//! Server and client against each other, with a double for the mount.

use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;

use super::*;
use crate::answer::{CommitAnswer, CommitRequest, Event, Failure, FailureKind, Happening, Progress};
use crate::mount::ProgressSink;

#[derive(Default)]
struct Double {
    /// Large answers that were made.
    made: std::sync::atomic::AtomicUsize,
}

#[async_trait::async_trait]
impl Service for Double {
    fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            sailvol: "test".into(),
            volume: "v".into(),
            dir: "/d".into(),
            name: "d".into(),
            pid: 1,
            ending: false,
        }
    }

    fn events(&self) -> futures::stream::BoxStream<'static, Arc<Event>> {
        let event = |number| {
            let what = Happening::HeadMoved { from: 1, to: number };
            Arc::new(Event {
                number,
                time: 0.0,
                what,
            })
        };
        // The second never comes: the watcher has to go.
        let first = futures::stream::iter([event(2)]);
        Box::pin(futures::StreamExt::chain(first, futures::stream::pending()))
    }

    async fn call(&self, request: Request, progress: ProgressSink) -> Result<Vec<u8>, Failure> {
        match request {
            Request::Commit(CommitRequest { message, .. }) => {
                progress(Progress {
                    stage: "uploading".into(),
                    ..Progress::default()
                });
                tokio::task::yield_now().await;
                Ok(serde_json::to_vec(&CommitAnswer {
                    seq: Some(message.len() as u64),
                    ..Default::default()
                })
                .unwrap())
            }
            // An answer of as many bytes as paths are asked for.
            Request::StashShow { limit, .. } => {
                self.made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                Ok(serde_json::to_vec(&"x".repeat(limit)).unwrap())
            }
            _ => Err(Failure::new(FailureKind::Refused, "no").hint("ask for something else")),
        }
    }
}

fn serve(access: Access) -> (tempfile::TempDir, std::path::PathBuf, tokio::task::JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.sock");
    let server = Server::bind(&path, access).unwrap();
    (dir, path, tokio::spawn(server.serve(Arc::new(Double::default()))))
}

fn mine() -> Access {
    Access {
        uids: vec![rustix::process::geteuid().as_raw()],
        gid: None,
    }
}

#[tokio::test]
async fn answers_progress_and_failures_reach_the_client() {
    let (_dir, path, task) = serve(mine());
    let mut client = Client::connect(&path).await.unwrap();
    assert_eq!(client.hello().volume, "v");
    let request = Request::Commit(CommitRequest {
        message: "four".into(),
        ..Default::default()
    });
    let mut stages = Vec::new();
    let answer: CommitAnswer = client.call(&request, |p| stages.push(p.stage)).await.unwrap();
    assert_eq!(answer.seq, Some(4));
    assert!(stages.iter().all(|s| s == "uploading"));
    let error = client
        .call::<CommitAnswer>(&Request::Log { limit: 1 }, |_| {})
        .await
        .unwrap_err();
    let ClientError::Failure(failure) = error else {
        panic!("{error}")
    };
    assert_eq!(
        (failure.kind, failure.hint.as_deref()),
        (FailureKind::Refused, Some("ask for something else"))
    );
    task.abort();
}

#[tokio::test]
async fn a_line_without_end_is_cut_off() {
    let (_dir, path, task) = serve(mine());
    let text = tokio::task::spawn_blocking(move || {
        use std::io::{BufRead, BufReader, Write};
        let mut stream = StdStream::connect(path).unwrap();
        // The server may hang up while we still write; what it answers before that is what counts.
        let _ = stream.write_all(&vec![b'x'; REQUEST_BYTES_MAX + 2]);
        let mut lines = BufReader::new(stream).lines();
        lines.next().unwrap().unwrap();
        lines.next().and_then(Result::ok).unwrap_or_default()
    })
    .await
    .unwrap();
    assert!(text.contains("1 MiB") && text.contains("\"usage\""), "{text}");
    task.abort();
}

/// Sizes on both sides of every limit that a message had or has: greetings 64 KiB, requests and Python's answers 1 MiB.
fn sizes() -> Vec<usize> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).unwrap();
    let mut seed = u64::from_le_bytes(seed);
    println!("seed {seed}");
    let mut random = move |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((seed >> 33) % below).unwrap()
    };
    let limits = [64usize << 10, 1 << 20, 8 << 20];
    let mut sizes: Vec<usize> = limits
        .iter()
        .flat_map(|limit| [limit - 1, *limit, limit + 1])
        .collect();
    for limit in limits {
        sizes.extend((0..6).map(|_| limit - 300 + random(600)));
    }
    sizes.extend((0..10).map(|_| random(3 << 20)));
    sizes
}

#[tokio::test]
async fn answers_of_every_size_arrive_whole() {
    let (_dir, path, task) = serve(mine());
    let mut client = Client::connect(&path).await.unwrap();
    for size in sizes() {
        let request = Request::StashShow { id: 1, limit: size };
        let answer: String = client.call(&request, |_| {}).await.unwrap();
        assert!(
            answer.len() == size && answer.bytes().all(|b| b == b'x'),
            "{size}"
        );
    }
    task.abort();
}

#[tokio::test]
async fn requests_of_every_size_are_heard_or_refused_as_wrong() {
    let (_dir, path, task) = serve(mine());
    let mut client = Client::connect(&path).await.unwrap();
    for size in sizes() {
        let request = Request::Commit(CommitRequest {
            message: "m".repeat(size),
            ..Default::default()
        });
        let line = serde_json::to_value(&request).unwrap().to_string().len() + 100;
        match client.call::<CommitAnswer>(&request, |_| {}).await {
            Ok(answer) => assert_eq!(answer.seq, Some(size as u64)),
            Err(ClientError::Failure(failure)) => {
                assert_eq!(failure.kind, FailureKind::Usage, "{size}: {failure}");
                assert!(line > REQUEST_BYTES_MAX, "{size}");
            }
            Err(error) => panic!("{size}: {error}"),
        }
    }
    // A client that does not count is told as well, however much it sends.
    for size in sizes().into_iter().filter(|size| *size > REQUEST_BYTES_MAX) {
        let path = path.clone();
        let said = tokio::task::spawn_blocking(move || {
            use std::io::{BufRead, BufReader, Write};
            let mut stream = StdStream::connect(path).unwrap();
            stream.write_all(&vec![b'x'; size]).unwrap();
            stream.write_all(b"\n").unwrap();
            let mut lines = BufReader::new(stream).lines();
            lines.next().unwrap().unwrap();
            lines.next().unwrap().unwrap()
        })
        .await
        .unwrap();
        assert!(
            said.contains("\"usage\"") && said.contains("too long"),
            "{size}: {said}"
        );
    }
    task.abort();
}

#[tokio::test]
async fn who_does_not_read_fills_no_memory_and_holds_up_no_commit() {
    use std::sync::atomic::Ordering::SeqCst;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.sock");
    let double = Arc::new(Double::default());
    let server = Server::bind(&path, mine()).unwrap();
    let task = tokio::spawn(server.serve(double.clone()));
    // Each of them asks for more than a socket holds.
    let (asked, size) = (12, 4 << 20);
    let mut idle = Vec::new();
    for _ in 0..asked {
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        let request = serde_json::json!({
            "jsonrpc": "2.0", "id": 1, "method": "stash-show", "params": {"id": 1, "limit": size},
        });
        stream.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        idle.push(stream);
    }
    while double.made.load(SeqCst) < 4 {
        tokio::task::yield_now().await;
    }
    let mut client = Client::connect(&path).await.unwrap();
    for _ in 0..20 {
        let answer: CommitAnswer = client
            .call(&Request::Commit(CommitRequest::default()), |_| {})
            .await
            .unwrap();
        assert_eq!(answer.seq, Some(0));
    }
    assert_eq!(double.made.load(SeqCst), 4, "answers that nobody takes");
    // Those who read get all of it.
    let reading = idle.into_iter().map(|stream| async move {
        use tokio::io::{AsyncBufReadExt, BufReader};
        let mut lines = BufReader::new(stream).lines();
        lines.next_line().await.unwrap().unwrap();
        assert!(lines.next_line().await.unwrap().unwrap().len() > size);
    });
    futures::future::join_all(reading).await;
    assert_eq!(double.made.load(SeqCst), asked);
    task.abort();
}

#[tokio::test]
async fn more_connections_than_places_are_refused_not_queued() {
    let (_dir, path, task) = serve(mine());
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(Client::connect(&path).await.unwrap());
    }
    let error = Client::connect(&path).await.unwrap_err();
    assert!(error.to_string().contains("too many"), "{error}");
    drop(held);
    task.abort();
}

#[tokio::test]
async fn watchers_are_told_and_bounded_and_leave_room_for_commits() {
    let (_dir, path, task) = serve(mine());
    let mut watchers = Vec::new();
    for _ in 0..16 {
        let mut client = Client::connect(&path).await.unwrap();
        let (tell, told) = tokio::sync::oneshot::channel();
        let mut tell = Some(tell);
        watchers.push(tokio::spawn(async move {
            client
                .watch(|event| {
                    tell.take().unwrap().send(event.number).unwrap();
                    std::ops::ControlFlow::Continue(())
                })
                .await
        }));
        assert_eq!(told.await.unwrap(), 2);
    }
    let mut late = Client::connect(&path).await.unwrap();
    let error = late
        .watch(|_| std::ops::ControlFlow::Continue(()))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("16 others"), "{error}");
    let mut client = Client::connect(&path).await.unwrap();
    let answer: CommitAnswer = client
        .call(&Request::Commit(CommitRequest::default()), |_| {})
        .await
        .unwrap();
    assert_eq!(answer.seq, Some(0));
    for watcher in watchers {
        watcher.abort();
    }
    task.abort();
}
