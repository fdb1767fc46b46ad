//! What only the S3 adapter can do wrong: lost answers, throttling, stalls, credentials, addresses, and stores that do not
//! keep the rules.

use bytes::Bytes;
use fuse_tests::s3d::{Action, Conditions, FaultRule, GatewayBody, S3d, S3dOptions, Settings, Verb};
use fuse_tests::store_contract::pattern;
use sailvol::store::{
    CreateVerdict, ListVerdict, ObjectStore, PutMode, StoreError, StoreOptions, StoreUrl, open_with, probe,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

async fn server() -> S3d {
    S3d::start(S3dOptions::default()).await.unwrap()
}

async fn server_with(settings: Settings) -> S3d {
    S3d::start(S3dOptions {
        settings,
        ..S3dOptions::default()
    })
    .await
    .unwrap()
}

fn options(server: &S3d) -> StoreOptions {
    StoreOptions {
        credentials_file: Some(server.credentials_file().unwrap()),
        ..StoreOptions::default()
    }
}

async fn store_at(url: &str, options: &StoreOptions) -> Arc<dyn ObjectStore> {
    open_with(&StoreUrl::parse(url).unwrap(), options).await.unwrap()
}

async fn store(server: &S3d) -> Arc<dyn ObjectStore> {
    store_at(&server.url("bucket/prefix"), &options(server)).await
}

fn write_credentials(path: &Path, access: &str, secret: &str) {
    let text = format!("[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n");
    std::fs::write(path, text).unwrap();
}

const BODY: Bytes = Bytes::from_static(b"the body of a record");

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_a_create_is_unknown_and_then_found_to_be_ours() {
    let server = server().await;
    let store = store(&server).await;
    for (index, fault) in [
        Action::DropAfter,
        Action::RejectAfter { status: 500 },
        Action::RejectAfter { status: 503 },
        Action::RejectAfter { status: 409 },
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("log/{index}");
        server.fault(FaultRule::new(fault.clone()).verb(Verb::PutIf).times(1));
        server.reset();
        let error = store.put(&key, BODY, PutMode::IfAbsent).await.unwrap_err();
        assert!(matches!(error, StoreError::Unknown { .. }), "{fault:?}: {error}");
        assert_eq!(
            server.counters().verb(Verb::PutIf).requests,
            1,
            "{fault:?} was sent again"
        );
        assert_eq!(store.get(&key, None).await.unwrap().bytes, BODY);
        // Sent again by the caller, it finds its own.
        let error = store.put(&key, BODY, PutMode::IfAbsent).await.unwrap_err();
        assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
    }
}

/// Proxies and gateways answer for the store when they lose patience: whatever they say of a create, it may be there.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_of_a_gateway_proves_that_a_create_was_not_applied() {
    let server = server().await;
    let store = store(&server).await;
    let bodies = [GatewayBody::Empty, GatewayBody::Html, GatewayBody::Xml];
    // Every status that S3 itself uses or a known proxy does, with each body; the others at random.
    let known = [
        200, 201, 204, 301, 302, 307, 308, 400, 401, 403, 404, 405, 407, 408, 409, 410, 411, 412, 413, 414,
        416, 417, 421, 425, 428, 429, 431, 444, 451, 460, 463, 494, 495, 496, 497, 498, 499, 500, 501, 502,
        503, 504, 505, 507, 520, 522, 524, 529, 561, 598,
    ];
    let some = known.into_iter().map(Some).chain([None; 50]);
    for (number, status) in some.enumerate() {
        let bodies = bodies
            .into_iter()
            .filter(|body| *body != GatewayBody::Empty || status.is_none_or(|s| s >= 300));
        // An answer without content has no body that could tell otherwise.
        for body in bodies.filter(|_| status != Some(204)) {
            let key = format!("log/{number}-{body:?}");
            let fault = Action::GatewayAfter {
                status,
                body: Some(body),
            };
            server.fault(FaultRule::new(fault).verb(Verb::PutIf).times(1));
            server.reset();
            let error = store.put(&key, BODY, PutMode::IfAbsent).await.unwrap_err();
            let said = &server.log()[0].fault;
            assert!(matches!(error, StoreError::Unknown { .. }), "{said:?}: {error:?}");
            let sent = server.counters().verb(Verb::PutIf).requests;
            assert_eq!(sent, 1, "{said:?} was sent again");
            assert_eq!(store.get(&key, None).await.unwrap().bytes, BODY);
        }
    }
}

/// What only a store that has looked at the request says, before it writes: nothing needs to be looked up.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_in_the_words_of_s3_is_believed() {
    let server = server().await;
    let store = store(&server).await;
    for (status, code) in [
        (400, "InvalidRequest"),
        (400, "ExpiredToken"),
        (400, "EntityTooLarge"),
        (403, "AccessDenied"),
        (403, "SignatureDoesNotMatch"),
        (404, "NoSuchBucket"),
        (412, "PreconditionFailed"),
        (501, "NotImplemented"),
    ] {
        let fault = Action::Reject {
            status,
            code: Some(code.into()),
            retry_after_s: None,
        };
        server.clear_faults();
        server.fault(FaultRule::new(fault).verb(Verb::PutIf));
        let error = store.put("slot", BODY, PutMode::IfAbsent).await.unwrap_err();
        assert!(!matches!(error, StoreError::Unknown { .. }), "{code}: {error:?}");
        // The same code under a status that is not its own comes from somebody who translates.
        let fault = Action::Reject {
            status: 499,
            code: Some(code.into()),
            retry_after_s: None,
        };
        server.clear_faults();
        server.fault(FaultRule::new(fault).verb(Verb::PutIf));
        let error = store.put("slot", BODY, PutMode::IfAbsent).await.unwrap_err();
        assert!(matches!(error, StoreError::Unknown { .. }), "{code}: {error:?}");
    }
    server.clear_faults();
    store.put("slot", BODY, PutMode::IfAbsent).await.unwrap();
}

/// S3 begins some answers with 200 before it knows how they end; gateways lose patience with what may be repeated.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_an_answer_of_200_and_a_lost_patience_are_tried_again() {
    let server = server().await;
    let store = store(&server).await;
    let keys: Vec<String> = (0..3).map(|n| format!("k/{n}")).collect();
    for (status, body) in [
        (200, GatewayBody::Xml),
        (460, GatewayBody::Html),
        (499, GatewayBody::Empty),
    ] {
        let fault = |verb| {
            let action = Action::GatewayAfter {
                status: Some(status),
                body: Some(body),
            };
            server.fault(FaultRule::new(action).verb(verb).times(1));
        };
        fault(Verb::Put);
        for key in &keys {
            store.put(key, BODY, PutMode::Overwrite).await.unwrap();
        }
        fault(Verb::List);
        assert_eq!(store.list("k/", None, 10).await.unwrap().objects.len(), 3);
        if status != 200 {
            fault(Verb::Get);
        }
        assert_eq!(store.get(&keys[0], None).await.unwrap().bytes, BODY);
        fault(Verb::DeleteMany);
        store.delete(&keys[1..]).await.unwrap();
        fault(Verb::Delete);
        store.delete(&keys[..1]).await.unwrap();
        assert!(store.list("k/", None, 10).await.unwrap().objects.is_empty());
        assert!(server.counters().verb(Verb::List).requests > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_was_not_applied_is_unknown_and_not_there() {
    let server = server().await;
    let store = store(&server).await;
    for fault in [
        Action::DropBefore,
        Action::DropMidway { bytes: 5 },
        Action::Reject {
            status: 500,
            code: None,
            retry_after_s: None,
        },
        Action::Reject {
            status: 503,
            code: None,
            retry_after_s: Some(1),
        },
        Action::Reject {
            status: 409,
            code: None,
            retry_after_s: None,
        },
    ] {
        server.fault(FaultRule::new(fault.clone()).verb(Verb::PutIf).times(1));
        server.reset();
        let error = store.put("slot", BODY, PutMode::IfAbsent).await.unwrap_err();
        assert!(matches!(error, StoreError::Unknown { .. }), "{fault:?}: {error}");
        assert_eq!(
            server.counters().verb(Verb::PutIf).requests,
            1,
            "{fault:?} was sent again"
        );
        assert_eq!(store.head("slot").await.unwrap(), None);
    }
    store.put("slot", BODY, PutMode::IfAbsent).await.unwrap();
}

/// Seed 1 of the campaign of kills: a 404 whose text was cut short was taken for a wrong address.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_whose_text_is_cut_short_is_asked_for_again() {
    let server = server().await;
    let store = store(&server).await;
    server.fault(FaultRule::new(Action::Truncate { bytes: 100 }).times(1));
    let error = store.get("absent", None).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    assert_eq!(server.counters().verb(Verb::Get).requests, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_else_is_tried_again() {
    let server = server().await;
    let store = store(&server).await;
    let body = pattern(300_000, 7);
    for fault in [
        Action::DropBefore,
        Action::DropAfter,
        Action::Reject {
            status: 500,
            code: None,
            retry_after_s: None,
        },
        Action::Reject {
            status: 503,
            code: None,
            retry_after_s: None,
        },
        Action::Reject {
            status: 409,
            code: None,
            retry_after_s: None,
        },
    ] {
        server.clear_faults();
        for verb in [Verb::Put, Verb::Get, Verb::Head, Verb::List, Verb::DeleteMany] {
            server.fault(FaultRule::new(fault.clone()).verb(verb).times(2));
        }
        store
            .put("object", body.clone(), PutMode::Overwrite)
            .await
            .unwrap();
        assert_eq!(store.get("object", None).await.unwrap().bytes, body);
        assert_eq!(store.head("object").await.unwrap(), Some(300_000));
        assert_eq!(store.list("", None, 10).await.unwrap().objects.len(), 1);
        store
            .delete(&["object".to_string(), "other".to_string()])
            .await
            .unwrap();
        assert_eq!(store.head("object").await.unwrap(), None, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_kept() {
    let server = server().await;
    let store = store(&server).await;
    let reject = Action::Reject {
        status: 503,
        code: None,
        retry_after_s: Some(1),
    };
    server.fault(FaultRule::new(reject).verb(Verb::List).times(1));
    let start = Instant::now();
    store.list("", None, 1).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_transfer_goes_on_where_it_broke() {
    let server = server().await;
    let store = store(&server).await;
    let body = pattern(3_000_000, 9);
    store
        .put("object", body.clone(), PutMode::Overwrite)
        .await
        .unwrap();
    server.fault(
        FaultRule::new(Action::Truncate { bytes: 1_000_000 })
            .verb(Verb::Get)
            .times(2),
    );
    server.reset();
    assert_eq!(store.get("object", None).await.unwrap().bytes, body);
    let get = server.counters().verb(Verb::Get);
    assert_eq!(get.requests, 3);
    assert!(get.bytes_out < 3_100_000, "read {} bytes", get.bytes_out);
    // More breaks than attempts, each with some progress.
    server.fault(
        FaultRule::new(Action::Truncate { bytes: 200_000 })
            .verb(Verb::Get)
            .times(9),
    );
    let part = store.get("object", Some(100..2_500_000)).await.unwrap();
    assert_eq!(part.bytes, body[100..2_500_000]);
    assert_eq!(part.object_len, 3_000_000);
    // The same as it comes: nothing twice, nothing left out.
    server.fault(
        FaultRule::new(Action::Truncate { bytes: 200_000 })
            .verb(Verb::Get)
            .times(9),
    );
    let (mut streamed, mut pieces) = (Vec::new(), 0);
    let mut arrived = |piece: Bytes| {
        streamed.extend_from_slice(&piece);
        pieces += 1;
    };
    store
        .get_streamed("object", 100..2_500_000, &mut arrived)
        .await
        .unwrap();
    assert!(streamed == body[100..2_500_000]);
    assert!(pieces > 9, "{pieces} pieces of ten answers");
}

/// What came before the break is of the first object: alone it may be given out, never with the rest of the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_never_goes_on_in_another_object() {
    let server = server().await;
    let store = store(&server).await;
    let bodies = [pattern(1_000_000, 1), pattern(1_000_000, 2)];
    // The second attempt is told to wait a second; the object is another one by then.
    let reject = Action::Reject {
        status: 503,
        code: None,
        retry_after_s: Some(1),
    };
    let requests = || server.counters().verb(Verb::Get).requests;
    for streamed in [false, true] {
        let [first, second] = &bodies;
        store
            .put("object", first.clone(), PutMode::Overwrite)
            .await
            .unwrap();
        for fault in [Action::Truncate { bytes: 300_000 }, reject.clone()] {
            server.fault(FaultRule::new(fault).verb(Verb::Get).times(1));
        }
        let before = requests();
        let replace = async {
            while requests() < before + 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            store
                .put("object", second.clone(), PutMode::Overwrite)
                .await
                .unwrap();
        };
        if streamed {
            let mut got = Vec::new();
            let mut arrived = |piece: Bytes| got.extend_from_slice(&piece);
            let get = store.get_streamed("object", 0..1_000_000, &mut arrived);
            let error = futures::join!(get, replace).0.unwrap_err();
            assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
            assert!(error.to_string().contains("changed while it was read"), "{error}");
            assert!(
                !got.is_empty() && got == first[..got.len()],
                "{} bytes",
                got.len()
            );
        } else {
            let get = store.get("object", Some(0..1_000_000));
            let result = futures::join!(get, replace).0;
            assert!(result.unwrap().bytes == *second);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_progress_at_all_ends_after_the_attempts() {
    let server = server().await;
    let store = store_at(
        &server.url("bucket"),
        &StoreOptions {
            attempts_max: 3,
            ..options(&server)
        },
    )
    .await;
    store.put("object", BODY, PutMode::Overwrite).await.unwrap();
    server.fault(FaultRule::new(Action::DropBefore).verb(Verb::Get));
    server.reset();
    let error = store.get("object", None).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert_eq!(server.counters().verb(Verb::Get).requests, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_ends_and_slowness_does_not() {
    let server = server().await;
    let stall_timeout = Duration::from_millis(250);
    let quick = StoreOptions {
        stall_timeout,
        attempts_max: 1,
        ..options(&server)
    };
    let store = store_at(&server.url("bucket"), &quick).await;
    // Well above what the kernel's buffers hide.
    let body = Bytes::from(vec![7; 32_000_000]);
    store
        .put("object", body.clone(), PutMode::Overwrite)
        .await
        .unwrap();
    for fault in [Action::Stall, Action::StallMidway { bytes: 0 }] {
        server.clear_faults();
        server.fault(FaultRule::new(fault.clone()));
        for error in [
            store.get("object", None).await.unwrap_err(),
            store
                .put("object", body.clone(), PutMode::Overwrite)
                .await
                .err()
                .unwrap_or(StoreError::Unreachable {
                    reason: "an answer without a body cannot stall in it".to_string(),
                }),
            store.list("", None, 1).await.unwrap_err(),
        ] {
            assert!(
                matches!(error, StoreError::Unreachable { .. }),
                "{fault:?}: {error}"
            );
        }
    }
    server.clear_faults();
    server.fault(FaultRule::new(Action::HoldAnswer).verb(Verb::PutIf).times(1));
    let error = store.put("slot", BODY, PutMode::IfAbsent).await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown { .. }), "{error}");
    // Several times the limit for the whole, in both directions.
    server.clear_faults();
    server.set(|settings| settings.bandwidth = 24_000_000);
    let start = Instant::now();
    store.put("slow", body.clone(), PutMode::Overwrite).await.unwrap();
    assert_eq!(store.get("slow", None).await.unwrap().bytes, body);
    assert!(start.elapsed() > 8 * stall_timeout);
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_do_not_keep_the_rules_are_found_out() {
    let server = server().await;
    let store = store(&server).await;
    let report = probe(store.as_ref()).await.unwrap();
    assert!(report.is_fit(), "{report}");
    server.set(|settings| settings.conditions = Conditions::Racy);
    let report = probe(store.as_ref()).await.unwrap();
    assert!(
        matches!(report.create, CreateVerdict::Racy { winners } if winners > 1),
        "{report}"
    );
    server.set(|settings| settings.conditions = Conditions::Ignored);
    let report = probe(store.as_ref()).await.unwrap();
    assert!(
        matches!(report.create, CreateVerdict::Ignored | CreateVerdict::Racy { .. }),
        "{report}"
    );
    server.set(|settings| settings.conditions = Conditions::Refused);
    let report = probe(store.as_ref()).await.unwrap();
    assert!(matches!(report.create, CreateVerdict::Refused { .. }), "{report}");
    server.set(|settings| {
        settings.conditions = Conditions::Atomic;
        settings.unsorted_lists = true;
    });
    let report = probe(store.as_ref()).await.unwrap();
    assert!(matches!(report.list, ListVerdict::Unsorted { .. }), "{report}");
    assert!(!report.is_fit());
    server.set(|settings| {
        settings.unsorted_lists = false;
        settings.clock_offset_s = 7200;
    });
    let report = probe(store.as_ref()).await.unwrap();
    let ahead = report.clock_ahead_s.unwrap();
    assert!((7190..=7210).contains(&ahead), "{ahead}");
    assert!(store.list("", None, 10).await.unwrap().objects.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_buckets_and_addresses_say_what_to_do() {
    let server = server().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    let own = StoreOptions {
        credentials_file: Some(file.clone()),
        attempts_max: 2,
        ..StoreOptions::default()
    };

    write_credentials(&file, "nobody", "x");
    let error = store_at(&server.url("bucket"), &own)
        .await
        .list("", None, 1)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StoreError::Denied { reason } if reason.contains("access key")),
        "{error}"
    );

    write_credentials(&file, "s3d-access", "hunter2-is-wrong");
    let error = store_at(&server.url("bucket"), &own)
        .await
        .list("", None, 1)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StoreError::Denied { reason } if reason.contains("secret key")),
        "{error}"
    );
    assert!(!error.to_string().contains("hunter2"), "{error}");
    let error = store_at(&server.url("bucket"), &own)
        .await
        .put("a", BODY, PutMode::IfAbsent)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");

    std::fs::remove_file(&file).unwrap();
    let error = store_at(&server.url("bucket"), &own)
        .await
        .list("", None, 1)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StoreError::Denied { reason } if reason.contains("credentials")),
        "{error}"
    );

    write_credentials(&file, "s3d-access", "s3d-secret");
    let missing = store_at(&server.url("no-such-bucket"), &own).await;
    for error in [
        missing.list("", None, 1).await.unwrap_err(),
        missing.get("a", None).await.unwrap_err(),
        missing.put("a", BODY, PutMode::IfAbsent).await.unwrap_err(),
    ] {
        let told =
            matches!(&error, StoreError::Misconfigured { reason } if reason.contains("no-such-bucket"));
        assert!(told, "{error}");
    }

    // A port where nobody listens: nothing can have been written, so that is not unknown.
    let closed = {
        let mut gone = S3d::start(S3dOptions::default()).await.unwrap();
        gone.stop();
        gone.url("bucket")
    };
    let closed = store_at(&closed, &own).await;
    for error in [
        closed.list("", None, 1).await.unwrap_err(),
        closed.put("a", BODY, PutMode::IfAbsent).await.unwrap_err(),
    ] {
        let told = matches!(&error, StoreError::Unreachable { reason } if reason.contains("127.0.0.1"));
        assert!(told, "{error}");
    }

    // Something else that speaks HTTP.
    let elsewhere = store_at(&server.url("bucket/_"), &own).await;
    server.fault(FaultRule::new(Action::Reject {
        status: 404,
        code: Some("Nope".into()),
        retry_after_s: None,
    }));
    let error = elsewhere.get("a", None).await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_credentials_are_picked_up_without_a_restart() {
    let server = server().await;
    let options = options(&server);
    let file = options.credentials_file.clone().unwrap();
    let store = store_at(&server.url("bucket"), &options).await;
    store.put("a", BODY, PutMode::Overwrite).await.unwrap();
    server.set(|settings| settings.keys = BTreeMap::from([("second".to_string(), "other".to_string())]));
    write_credentials(&file, "second", "other");
    store.put("slot", BODY, PutMode::IfAbsent).await.unwrap();
    // Again, by many requests at once of which one reads the file.
    server.set(|settings| settings.keys = BTreeMap::from([("third".to_string(), "new".to_string())]));
    write_credentials(&file, "third", "new");
    let gets = futures::future::join_all((0..20).map(|_| store.get("slot", None))).await;
    assert!(gets.into_iter().all(|fetched| fetched.unwrap().bytes == BODY));
    // Refused while the file is old, good as soon as it is new.
    server.set(|settings| settings.keys = BTreeMap::from([("fourth".to_string(), "new".to_string())]));
    let error = store.get("slot", None).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    write_credentials(&file, "fourth", "new");
    let start = Instant::now();
    while store.get("slot", None).await.is_err() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "the new key was not picked up"
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_told_or_corrected() {
    let server = server_with(Settings {
        clock_offset_s: 3600,
        ..Settings::default()
    })
    .await;
    let store = store(&server).await;
    let reject = Action::Reject {
        status: 403,
        code: Some("RequestTimeTooSkewed".to_string()),
        retry_after_s: None,
    };
    server.fault(FaultRule::new(reject.clone()).verb(Verb::List).times(1));
    store.list("", None, 1).await.unwrap();
    server.fault(FaultRule::new(reject).verb(Verb::List));
    let error = store.list("", None, 1).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Denied { reason } if reason.contains("clock")),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_and_many_requests_at_once() {
    let server = server().await;
    let store = store(&server).await;
    let body = pattern(64 << 20, 5);
    store.put("large", body.clone(), PutMode::IfAbsent).await.unwrap();
    let parts = futures::future::join_all((0..64u64).map(|part| {
        let range = part << 20..(part + 1) << 20;
        let store = store.clone();
        async move { store.get("large", Some(range)).await.unwrap().bytes }
    }))
    .await;
    assert!(parts.concat() == body);
    server.fault(
        FaultRule::new(Action::Flip { offset: 1000 })
            .verb(Verb::Get)
            .times(1),
    );
    let flipped = store.get("large", Some(0..2000)).await.unwrap().bytes;
    assert_eq!(flipped[1000], !body[1000]);
    // Connections are used again.
    server.reset();
    for _ in 0..20 {
        store.head("large").await.unwrap();
    }
    assert_eq!(server.counters().connections, 0);
}
