//! A mount that commits amid others' commits for a long time without a reload.

use std::sync::Arc;

use super::late::{empty, write};
use super::pod::Pod;
use crate::answer::LocalChanges;
use crate::mount::lease;
use crate::store::MemoryStore;
use crate::volume::testing::ScriptedStore;

/// Both write the same name now and then: what one has of it is then in an older record of its own only.
async fn commit_amid_others(pods: &[Pod; 2], rounds: usize) {
    for round in 0..rounds {
        for pod in pods {
            write(pod, pod.name.as_bytes(), format!("{round}").as_bytes()).await;
            if round.is_multiple_of(20) {
                write(
                    pod,
                    b"both",
                    format!("{} {round} ", pod.name).repeat(100).as_bytes(),
                )
                .await;
            }
            pod.commit().await.unwrap();
        }
    }
}

#[tokio::test]
async fn sources_stay_few() {
    let store = ScriptedStore::new(Arc::new(MemoryStore::new()));
    let pods = [
        Pod::fresh(&store, "a", empty()).await,
        Pod::fresh(&store, "b", empty()).await,
    ];
    commit_amid_others(&pods, lease::SOURCES_MAX + 10).await;
    for pod in &pods {
        let sources = pod.mount.base_ref().sources;
        assert!(sources.len() <= lease::SOURCES_MAX, "{sources:?}");
        assert_eq!(sources.last(), Some(&pod.mount.base_ref().seq));
    }
    let seen = [pods[0].seen().await, pods[1].seen().await];
    assert_ne!(seen[0]["/both"], seen[1]["/both"]);

    // Changes that no commit takes along, over as many reloads.
    let [pod, other] = &pods;
    write(pod, b"kept", b"kept").await;
    for round in 0..lease::SOURCES_MAX + 10 {
        write(other, b"b", format!("again {round}").as_bytes()).await;
        other.commit().await.unwrap();
        pod.reload(LocalChanges::Keep).await.unwrap();
    }
    let sources = pod.mount.base_ref().sources;
    assert!(sources.len() <= lease::SOURCES_MAX, "{sources:?}");
    for pod in pods {
        pod.close().await;
    }
}
