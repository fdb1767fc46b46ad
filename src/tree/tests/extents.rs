use std::collections::BTreeMap;

use super::model::*;
use crate::format::content_id;
use crate::model::*;
use crate::tree::*;

fn chunk(random: &mut Random) -> ChunkRef {
    match random.one_in(4) {
        true => ChunkRef::Hole,
        false => ChunkRef::Object {
            epoch: 1,
            id: content_id(&random.below(u64::MAX).to_le_bytes()),
        },
    }
}

/// A size with this many chunks, all of them whole.
fn size_of(chunks: u64) -> u64 {
    let (mut low, mut high) = (0, FILE_BYTES_MAX);
    while low < high {
        let mid = low + (high - low).div_ceil(2);
        if chunk_count(mid) <= chunks {
            low = mid
        } else {
            high = mid - 1
        }
    }
    low
}

async fn settle(src: &MemorySource, content: Content, writer: NodeWriter) -> (Content, WriterStats) {
    let written = writer.finish().await.unwrap();
    src.add(written.packs);
    (resolve_content(&content, &written.ids), written.stats)
}

fn writer() -> NodeWriter {
    NodeWriter::new(2, NodeParams::default())
}

#[tokio::test]
async fn edited_lists_are_those_that_are_built_afresh() {
    let mut random = Random::new(17);
    for round in 0..12 {
        let src = MemorySource::new();
        let mut chunks: Vec<ChunkRef> = Vec::new();
        let mut base: Option<(u64, Content)> = None;
        for _ in 0..6 {
            let count = match random.below(4) {
                0 => 1 + random.below(33),
                1 => 1024 * (1 + random.below(3)),
                _ => 1 + random.below(3000),
            };
            let size = size_of(count);
            let mut changed = BTreeMap::new();
            for _ in 0..random.below(5) {
                changed.insert(random.below(count), chunk(&mut random));
            }
            chunks.resize(count as usize, ChunkRef::Hole);
            for (index, chunk) in &changed {
                chunks[*index as usize] = *chunk;
            }
            let mut edits = writer();
            let base_ref = base.as_ref().map(|(size, content)| (*size, content));
            let content = edit_chunks(&src, &mut edits, base_ref, size, &changed)
                .await
                .unwrap();
            let (content, _) = settle(&src, content, edits).await;
            let mut afresh = writer();
            let fresh = chunked_content(&mut afresh, size, &chunks).await.unwrap();
            assert!(content.same(&fresh), "round {round}");
            assert_eq!(
                matches!(content, Content::Paged { .. }),
                count > CHUNKS_INLINE_MAX
            );
            assert_eq!(
                super::super::chunks(&src, &content, size, 0..u64::MAX)
                    .await
                    .unwrap(),
                chunks
            );
            for _ in 0..5 {
                let index = random.below(count + 2);
                let want = chunks.get(index as usize).copied();
                assert_eq!(chunk_at(&src, &content, size, index).await.unwrap(), want);
            }
            base = Some((size, content));
        }
    }
}

#[tokio::test]
async fn one_chunk_of_a_tebibyte_file_rewrites_one_page_and_an_index() {
    let src = MemorySource::new();
    let mut random = Random::new(19);
    let size = 1 << 40;
    let count = chunk_count(size);
    let all: Vec<ChunkRef> = (0..count).map(|_| chunk(&mut random)).collect();
    let mut first = writer();
    let content = chunked_content(&mut first, size, &all).await.unwrap();
    let (content, _) = settle(&src, content, first).await;
    src.forget();
    let mut second = writer();
    let changed = BTreeMap::from([(9000, chunk(&mut random))]);
    let edited = edit_chunks(&src, &mut second, Some((size, &content)), size, &changed)
        .await
        .unwrap();
    let (edited, stats) = settle(&src, edited, second).await;
    assert_eq!((stats.nodes, src.fetched().nodes), (2, 2), "{stats:?}");
    assert!(stats.raw_bytes < 40 << 10, "{stats:?}");
    assert_eq!(
        chunk_at(&src, &edited, size, 9000).await.unwrap(),
        changed.get(&9000).copied()
    );
    assert_eq!(
        chunk_at(&src, &edited, size, 9001).await.unwrap(),
        all.get(9001).copied()
    );
}

#[tokio::test]
async fn index_pages_that_did_not_change_are_not_written_again() {
    let src = MemorySource::new();
    let mut random = Random::new(23);
    let count = 600 * EXTENT_PAGE_CHUNKS;
    let size = size_of(count);
    let mut first = writer();
    let some = BTreeMap::from([(count - 1, chunk(&mut random)), (5, chunk(&mut random))]);
    let content = edit_chunks(&src, &mut first, None, size, &some).await.unwrap();
    let (content, stats) = settle(&src, content, first).await;
    // Equal pages of holes are one node; two index pages and the one above them.
    assert!(stats.packs == 1, "{stats:?}");
    src.forget();
    let changed = BTreeMap::from([(
        700,
        ChunkRef::Object {
            epoch: 3,
            id: content_id(b"new"),
        },
    )]);
    let mut second = writer();
    let edited = edit_chunks(&src, &mut second, Some((size, &content)), size, &changed)
        .await
        .unwrap();
    let (edited, stats) = settle(&src, edited, second).await;
    assert_eq!(stats.nodes, 3, "a page, its index page, and the root: {stats:?}");
    assert_eq!(
        chunk_at(&src, &edited, size, count - 1).await.unwrap(),
        some.get(&(count - 1)).copied()
    );
    assert_eq!(
        chunk_at(&src, &edited, size, 700).await.unwrap(),
        changed.get(&700).copied()
    );
}

#[tokio::test]
async fn bytes_that_were_not_given_are_never_taken_for_holes() {
    let src = MemorySource::new();
    let mut random = Random::new(29);
    let none = BTreeMap::new();
    let mut w = writer();
    // A small content grows: its bytes have to be given as the first chunk.
    let tiny = Content::Tiny(b"abc"[..].into());
    assert!(
        edit_chunks(&src, &mut w, Some((3, &tiny)), 5 << 20, &none)
            .await
            .is_err()
    );
    let blob = small_content(&mut w, &vec![1; 3 << 20]).await.unwrap();
    assert!(
        edit_chunks(&src, &mut w, Some((3 << 20, &blob)), 5 << 20, &none)
            .await
            .is_err()
    );
    // A partial last chunk grows or shrinks.
    let chunks = [
        ChunkRef::Object {
            epoch: 1,
            id: content_id(b"1"),
        },
        ChunkRef::Object {
            epoch: 1,
            id: content_id(b"2"),
        },
    ];
    let base = chunked_content(&mut w, 10 << 20, &chunks).await.unwrap();
    for size in [9 << 20, 11 << 20, 7 << 20, 40 << 20] {
        assert!(
            edit_chunks(&src, &mut w, Some((10 << 20, &base)), size, &none)
                .await
                .is_err(),
            "{size}"
        );
    }
    // To the end of a chunk, and over a hole, nothing is lost.
    assert!(
        edit_chunks(&src, &mut w, Some((10 << 20, &base)), 8 << 20, &none)
            .await
            .is_ok()
    );
    let holes = chunked_content(&mut w, 10 << 20, &[chunks[0], ChunkRef::Hole])
        .await
        .unwrap();
    assert!(
        edit_chunks(&src, &mut w, Some((10 << 20, &holes)), 40 << 20, &none)
            .await
            .is_ok()
    );
    assert!(
        edit_chunks(
            &src,
            &mut w,
            None,
            1 << 20,
            &BTreeMap::from([(0, chunk(&mut random))])
        )
        .await
        .is_err()
    );
}

#[tokio::test]
async fn a_visit_of_a_large_file_checks_its_chunk_list() {
    let src = MemorySource::new();
    let mut random = Random::new(31);
    let count = 2500;
    let size = size_of(count);
    let all: Vec<ChunkRef> = (0..count).map(|_| chunk(&mut random)).collect();
    let mut first = writer();
    let content = chunked_content(&mut first, size, &all).await.unwrap();
    let (content, _) = settle(&src, content, first).await;
    let objects = all
        .iter()
        .filter(|chunk| !matches!(chunk, ChunkRef::Hole))
        .count() as u64;
    let Content::Paged {
        tier, root: pages, ..
    } = &content
    else {
        panic!("not paged")
    };
    let other = Content::Paged {
        tier: *tier,
        root: pages.clone(),
        cid: content_id(b"another"),
    };
    for (content, trouble) in [(content, 0), (other, 1)] {
        let entry = Entry {
            attrs: Attrs::default(),
            body: EntryBody::File { size, content },
        };
        let root = change(
            &src,
            &empty_root(),
            &VolPath::root(),
            vec![(name("big"), Some(entry))],
        )
        .await;
        let (root, _) = stored(&src, &root, writer()).await;
        let found = Found::of(&src, &root).await;
        assert_eq!(
            (found.chunks, found.trouble.len()),
            (objects, trouble),
            "{found:?}"
        );
    }
}
