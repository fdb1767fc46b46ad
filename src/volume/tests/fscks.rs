//! Checks while a collector works.

use super::*;
use crate::format::lease_prefix;
use crate::store::ObjectStore;

#[tokio::test]
async fn records_that_are_trimmed_while_they_are_checked_are_no_damage() {
    let store = scripted();
    let Opened { volume, head } = new_volume(&store, "data").await;
    let mut head = publish_ok(&volume, &head, 1).await;
    for n in 2..6 {
        head = publish_ok(&volume, &head, n).await;
    }
    let key = Key::Record(volume.id(), 2).to_string();
    store.hold(Verb::Get, &key);
    let checking = {
        let (volume, head) = (volume.clone(), head.clone());
        tokio::spawn(async move {
            let options = FsckOptions {
                quick: false,
                all_records: true,
            };
            volume.fsck(&head, options, &|_| ()).await
        })
    };
    store.until_held().await;
    // It has said what it looks at.
    let listed = store
        .memory
        .list(&lease_prefix(&volume.id()), None, 10)
        .await
        .unwrap();
    assert_eq!(listed.objects.len(), 1);
    let object = store.memory.get(&listed.objects[0].key, None).await.unwrap();
    let text = String::from_utf8(object.bytes.to_vec()).unwrap();
    assert!(text.contains("sailvol fsck"), "{text}");
    // A collector that came before the lease.
    publish_fence(&volume, &head, &[0, 4, 5]).await;
    trim(&volume, [1, 2, 3]).await;
    store.let_go();
    let report = checking.await.unwrap().unwrap();
    assert_eq!(report.damaged, 0, "{:?}", report.damage);
    let listed = store
        .memory
        .list(&lease_prefix(&volume.id()), None, 10)
        .await
        .unwrap();
    assert!(listed.objects.is_empty());

    // What is missing and kept is damage still.
    trim(&volume, [4]).await;
    let head = volume.head().await.unwrap();
    let report = volume.fsck(&head, FsckOptions::default(), &|_| ()).await.unwrap();
    assert_eq!(report.damaged, 1, "{:?}", report.damage);
}

/// Policies of later versions go along, whoever publishes.
#[tokio::test]
async fn fields_of_later_versions_in_the_configuration_go_along() {
    let store = scripted();
    let Opened { volume, head } = new_volume(&store, "data").await;
    let keep = serde_json::json!({"all_secs": 604_800, "gc": "manual"});
    let retain = serde_json::json!({"all_days": 7, "last": 100, "daily_days": 60, "weekly_days": 365});
    let config = serde_json::json!({"quota_bytes": 0, "retain": retain, "keep": keep});
    let with = NextRecord {
        config: Some(serde_json::from_value(config.clone()).unwrap()),
        ..next(&head, 1)
    };
    let PublishOutcome::Published { head, .. } = publish(&volume, &head, with).await else {
        panic!("not published")
    };
    let head = publish_ok(&volume, &head, 2).await;
    let head = publish_fence(&volume, &head, &[2]).await;
    let head = publish_ok(&volume, &head, 4).await;
    assert_eq!(serde_json::to_value(&head.record().config).unwrap(), config);
    // And so does what the collector has said of itself: programs that do not keep its rules write no more.
    assert!(head.record().features.ro_compat.contains("collected-v2"));
}
