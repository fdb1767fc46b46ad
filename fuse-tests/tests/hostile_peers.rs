//! Peers that mean harm, or have lost their mind: answers without an end. Each must be a clear failure within bounded time
//! and memory. (Alone in a process, whose memory is looked at.)

use bytes::Bytes;
use sailvol::store::{PutMode, StoreOptions, StoreUrl, open_with};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What a peer sends that means harm, or has lost its mind.
#[derive(Clone, Copy, Debug)]
enum Peer {
    /// A header that never ends.
    EndlessHeader,
    /// A byte of a header now and then.
    SlowHeader,
    /// A body without a length that never ends.
    EndlessBody,
    /// A body of 2^60 bytes.
    HugeBody,
    /// A byte of a body now and then.
    SlowBody,
    /// An error whose text never ends.
    EndlessError,
}

impl Peer {
    fn head(self) -> &'static str {
        match self {
            Peer::EndlessHeader => "HTTP/1.1 200 OK\r\nx-long: ",
            Peer::SlowHeader => "HTTP/1.1 200 OK\r\n",
            Peer::EndlessBody => "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n<ListBucketResult>",
            Peer::HugeBody => {
                "HTTP/1.1 200 OK\r\ncontent-length: 1152921504606846976\r\n\r\n<ListBucketResult>"
            }
            Peer::SlowBody => "HTTP/1.1 200 OK\r\ncontent-length: 3000\r\n\r\n<ListBucketResult>",
            Peer::EndlessError => "HTTP/1.1 403 Forbidden\r\nconnection: close\r\n\r\n<Error><Code>",
        }
    }

    /// Answers every request in its way until the other side hangs up; gives the address.
    async fn listen(self) -> std::net::SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(self.answer(stream));
            }
        });
        address
    }

    async fn answer(self, stream: tokio::net::TcpStream) -> std::io::Result<()> {
        let (mut reader, mut writer) = stream.into_split();
        // Who speaks before he is asked is not listened to at all.
        let mut asked = vec![0; 8192];
        assert!(reader.read(&mut asked).await? > 0);
        tokio::spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
        writer.write_all(self.head().as_bytes()).await?;
        loop {
            match self {
                Peer::SlowHeader | Peer::SlowBody => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    writer.write_all(b"x").await?;
                }
                _ => writer.write_all(&[b'x'; 65536]).await?,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_an_end_are_ended() {
    let place = tempfile::tempdir().unwrap();
    let keys = place.path().join("credentials");
    let text = "[default]\naws_access_key_id = key\naws_secret_access_key = secret\n";
    std::fs::write(&keys, text).unwrap();
    let quick = StoreOptions {
        stall_timeout: Duration::from_millis(100),
        attempts_max: 1,
        credentials_file: Some(keys),
        ..StoreOptions::default()
    };
    let peers = [
        Peer::EndlessHeader,
        Peer::SlowHeader,
        Peer::EndlessBody,
        Peer::HugeBody,
        Peer::SlowBody,
        Peer::EndlessError,
    ];
    for peer in peers {
        let address = peer.listen().await;
        let url = format!("s3://bucket?endpoint=http://{address}&path_style=true&region=us-east-1");
        let store = open_with(&StoreUrl::parse(&url).unwrap(), &quick).await.unwrap();
        let began = memory_kib();
        let all = async {
            let get = store.get("object", None).await.err();
            let list = store.list("", None, 1).await.err();
            let put = store
                .put("object", Bytes::from_static(b"body"), PutMode::Overwrite)
                .await
                .err();
            [get, list, put]
        };
        let [get, list, put] = tokio::time::timeout(Duration::from_secs(200), all)
            .await
            .unwrap_or_else(|_| panic!("{peer:?}: no end"));
        println!("{peer:?}: {get:?} {list:?} {put:?}");
        assert!(get.is_some() && list.is_some(), "{peer:?}");
        let may_be_fine = matches!(peer, Peer::EndlessBody | Peer::HugeBody | Peer::SlowBody);
        assert!(put.is_some() || may_be_fine, "{peer:?}: a refused upload");
        let grown = memory_kib().saturating_sub(began);
        assert!(grown < 128 << 10, "{peer:?}: {grown} KiB more memory");
    }
}

/// Resident memory of this process.
fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
