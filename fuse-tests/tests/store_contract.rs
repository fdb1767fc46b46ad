//! Every adapter keeps the contract of the port.

use fuse_tests::s3d::{S3d, S3dOptions, Settings};
use fuse_tests::store_contract::check_all;
use sailvol::store::{CountingStore, MemoryStore, StoreOptions, StoreUrl, open, open_with};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn memory_store() {
    check_all(Arc::new(CountingStore::new(Arc::new(MemoryStore::new())))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_store() {
    let dir = tempfile::tempdir().unwrap();
    let url = StoreUrl::Dir(dir.path().join("a new/root"));
    let store = open(&url).await.unwrap();
    store.establish().await.unwrap();
    check_all(store).await;
}

async fn s3_store(prefix: &str, settings: Settings) -> S3d {
    let server = S3d::start(S3dOptions {
        settings,
        ..S3dOptions::default()
    })
    .await
    .unwrap();
    let url = StoreUrl::parse(&server.url(prefix)).unwrap();
    let options = StoreOptions {
        credentials_file: Some(server.credentials_file().unwrap()),
        ..StoreOptions::default()
    };
    check_all(open_with(&url, &options).await.unwrap()).await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_whole_bucket() {
    let server = s3_store("bucket", Settings::default()).await;
    assert!(server.counters().requests() > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_prefix_of_a_slow_store_that_deletes_singly() {
    let settings = Settings {
        delay_ms: 2,
        no_delete_many: true,
        ..Settings::default()
    };
    s3_store("bucket/some/prefix", settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_bucket_that_wants_checksums() {
    let settings = Settings {
        needs_checksums: true,
        ..Settings::default()
    };
    s3_store("bucket/locked", settings).await;
}
