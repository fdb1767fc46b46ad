//! What a collector leaves of a volume when it keeps every record.

use std::collections::HashSet;
use std::sync::Arc;

use super::pod::Pod;
use crate::format::{Key, volume_prefix};
use crate::model::{ChunkRef, VolumeId};
use crate::store::ObjectStore;
use crate::tree::{Item, Place, TreeError, Visit, Visitor, visit};
use crate::volume::RemoteSource;
use crate::volume::testing::ScriptedStore;

struct Named {
    volume: VolumeId,
    keys: HashSet<String>,
}

impl Visitor for Named {
    fn item(&mut self, _: Place<'_>, item: Item<'_>) -> Visit {
        let key = match item {
            Item::Node(ptr) => Key::Pack(self.volume, ptr.pack),
            Item::Chunk(ChunkRef::Packed(blob), _) | Item::Xattrs(blob, _) => {
                Key::Pack(self.volume, blob.pack)
            }
            Item::Chunk(ChunkRef::Object { epoch, id }, _) => Key::Chunk(self.volume, *epoch, *id),
            Item::Entry(_) | Item::Chunk(ChunkRef::Hole, _) => return Visit::Enter,
        };
        self.keys.insert(key.to_string());
        Visit::Enter
    }

    fn trouble(&mut self, place: Place<'_>, error: TreeError) -> Visit {
        panic!("{place}: {error}");
    }
}

/// Deletes what no record of the log refers to, and gives how much that was. Nobody commits meanwhile; the mounts have nothing in
/// their caches afterwards.
pub async fn sweep(store: &Arc<ScriptedStore>, pods: &[&Pod]) -> usize {
    let volume = &pods[0].mount.volume;
    let head = volume.head().await.unwrap();
    let mut named = Named {
        volume: volume.id(),
        keys: HashSet::new(),
    };
    for logged in volume.log(&head, usize::MAX).await.unwrap() {
        let nodes = RemoteSource::new(volume.clone());
        visit(&nodes, &logged.record.root.root, &mut named).await;
    }
    let mut dead = Vec::new();
    for kind in ["d/", "p/"] {
        let prefix = format!("{}{kind}", volume_prefix(&volume.id()));
        let listed = store.memory.list(&prefix, None, 1000).await.unwrap();
        assert!(!listed.truncated);
        let keys = listed.objects.into_iter().map(|object| object.key);
        dead.extend(keys.filter(|key| !named.keys.contains(key)));
    }
    store.memory.delete(&dead).await.unwrap();
    for pod in pods {
        pod.mount.source.cache().make_room(u64::MAX >> 8);
        pod.mount.source.forget_all_local();
    }
    dead.len()
}
