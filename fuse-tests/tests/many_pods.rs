//! Many writers on one volume: each acknowledged commit is in the log once, the final tree is the replay of the commits
//! in published order, and whoever overwrote a change it had not seen is told.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;

use fuse_tests::pod::Cluster;
use fuse_tests::s3d::{Action, FaultRule, Verb};

/// Writers and commits of each. The full size is 16 and 50: `SAILVOL_WRITERS=16 SAILVOL_COMMITS=50`.
fn size() -> (usize, usize) {
    let number = |name: &str, default| {
        std::env::var(name)
            .ok()
            .and_then(|v| v.parse().ok())
            .unwrap_or(default)
    };
    (number("SAILVOL_WRITERS", 8), number("SAILVOL_COMMITS", 12))
}

/// What one commit wrote, and what it was told.
struct Acknowledged {
    seq: u64,
    base: u64,
    wrote: BTreeMap<String, String>,
    overwrote: Vec<String>,
}

#[test]
fn writers_lose_nothing() {
    let (writers, commits) = size();
    let cluster = Cluster::start();
    let first = cluster.pod();
    first.mount("data", &["--create"]);
    fs::create_dir(first.path("shared")).unwrap();
    for n in 0..4 {
        fs::write(first.path(format!("shared/{n}")), "start").unwrap();
    }
    first.commit("start");
    // A gateway before the store that often loses its patience after the store has done what it was asked.
    let gateway = Action::GatewayAfter {
        status: None,
        body: None,
    };
    cluster
        .server
        .fault(FaultRule::new(gateway).verb(Verb::PutIf).chance(0.2));
    let done: Mutex<Vec<Acknowledged>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for writer in 0..writers {
            let (cluster, done) = (&cluster, &done);
            scope.spawn(move || {
                let pod = cluster.pod();
                pod.mount("data", &[]);
                // What this mount has seen of others: only reloads move it.
                let mut base = pod.status()["base"].as_u64().unwrap();
                fs::create_dir(pod.path(format!("own{writer}"))).unwrap();
                for commit in 0..commits {
                    let mut wrote = BTreeMap::new();
                    let text = format!("{writer}/{commit}");
                    wrote.insert(format!("own{writer}/f{}", commit % 5), text.clone());
                    if commit % 2 == 0 {
                        wrote.insert(format!("shared/{}", (writer + commit) % 4), text.clone());
                    }
                    for (path, text) in &wrote {
                        fs::write(pod.path(path), text).unwrap();
                    }
                    let dir = pod.mount_dir();
                    let answer = pod.json([
                        "commit".as_ref(),
                        dir.as_os_str(),
                        "--timeout".as_ref(),
                        "120s".as_ref(),
                    ]);
                    let overwrote = answer["overwrote"].as_array().unwrap().iter();
                    done.lock().unwrap().push(Acknowledged {
                        seq: answer["seq"].as_u64().unwrap_or_else(|| panic!("{answer}")),
                        base,
                        wrote,
                        overwrote: overwrote
                            .filter(|o| o["register"] == "content")
                            .map(|o| o["path"].as_str().unwrap().trim_start_matches('/').to_owned())
                            .collect(),
                    });
                    if (commit + writer) % 3 == 0 {
                        base = pod.reload(&[])["to"].as_u64().unwrap();
                    }
                }
                pod.umount(&[]);
            });
        }
    });
    cluster.server.clear_faults();
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|d| d.seq);
    let seqs: Vec<u64> = done.iter().map(|d| d.seq).collect();
    let expected: Vec<u64> = (2..2 + (writers * commits) as u64).collect();
    assert_eq!(
        seqs, expected,
        "each acknowledged commit is one record, and there are no others"
    );

    // Replay in published order, register by register; remember who wrote what when.
    let mut tree: BTreeMap<String, (String, u64)> = BTreeMap::new();
    for commit in &done {
        for (path, text) in &commit.wrote {
            if let Some((old, at)) = tree.get(path)
                && path.starts_with("shared/")
                && *at > commit.base
                && old != text
            {
                let own = done.iter().any(|d| d.seq == *at && same_writer(d, commit));
                assert!(
                    own || commit.overwrote.contains(path),
                    "record {} overwrote {path} of record {at} and was not told (base {})",
                    commit.seq,
                    commit.base
                );
            }
            tree.insert(path.clone(), (text.clone(), commit.seq));
        }
    }
    let reader = cluster.pod();
    reader.mount("data", &[]);
    for (path, (text, _)) in &tree {
        assert_eq!(&fs::read_to_string(reader.path(path)).unwrap(), text, "{path}");
    }
    let log = reader.json([
        "log".as_ref(),
        reader.mount_dir().as_os_str(),
        "-n".as_ref(),
        "100000".as_ref(),
    ]);
    assert_eq!(log.as_array().unwrap().len(), writers * commits + 2);
}

fn same_writer(a: &Acknowledged, b: &Acknowledged) -> bool {
    let own = |d: &Acknowledged| {
        d.wrote
            .keys()
            .find(|k| k.starts_with("own"))
            .map(|k| k.split('/').next().unwrap().to_owned())
    };
    own(a) == own(b)
}
