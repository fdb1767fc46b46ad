//! Server and client against each other, with a double for the mount.

use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;

use super::*;
use crate::mount::{
    CommitAnswer, CommitRequest, Event, Failure, FailureKind, Happening, Progress, ProgressSink,
};

struct Double;

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

    async fn call(&self, request: Request, progress: ProgressSink) -> Result<serde_json::Value, Failure> {
        match request {
            Request::Commit(CommitRequest { message, .. }) => {
                progress(Progress {
                    stage: "uploading".into(),
                    ..Progress::default()
                });
                tokio::task::yield_now().await;
                Ok(serde_json::to_value(CommitAnswer {
                    seq: Some(message.len() as u64),
                    ..Default::default()
                })
                .unwrap())
            }
            _ => Err(Failure::new(FailureKind::Refused, "no").hint("ask for something else")),
        }
    }
}

fn serve(access: Access) -> (tempfile::TempDir, std::path::PathBuf, tokio::task::JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.sock");
    let server = Server::bind(&path, access).unwrap();
    (dir, path, tokio::spawn(server.serve(Arc::new(Double))))
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
        let _ = stream.write_all(&vec![b'x'; LINE_BYTES_MAX + 2]);
        let mut lines = BufReader::new(stream).lines();
        lines.next().unwrap().unwrap();
        lines.next().and_then(Result::ok).unwrap_or_default()
    })
    .await
    .unwrap();
    assert!(text.is_empty() || text.contains("1 MiB"), "{text}");
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
