//! What is in a directory, in path order.

use super::Session;
use crate::answer::Failure;
use crate::model::{Entry, VolPath};
use crate::tree;

/// What is listed.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Paths and what is there; a hard link comes as its inode.
    pub entries: Vec<(VolPath, Entry)>,
    /// There is more than was asked for.
    pub truncated: bool,
}

/// How far it is listed.
#[derive(Clone, Copy, Debug)]
pub struct ListOptions {
    /// Also what is below subdirectories.
    pub recursive: bool,
    /// At most so many paths.
    pub limit: usize,
}

/// Lists what is in a directory, or the one thing that is no directory.
///
/// # Errors
/// Nothing has that path; damage, or what the store says.
pub async fn list(session: &Session, path: VolPath, options: ListOptions) -> Result<Listing, Failure> {
    let entry = session.entry(&path).await?;
    let mut listing = Listing::default();
    if !entry.is_dir() {
        listing.entries.push((path, entry));
        return Ok(listing);
    }
    // Directories that are still to be listed, deepest first, so that lines come in path order.
    let mut pending = vec![(path, entry)];
    while let Some((path, entry)) = pending.pop() {
        let Some((_, dir)) = entry.as_dir() else { continue };
        let mut below = Vec::new();
        for leaf in tree::leaves(&session.nodes, dir).await? {
            for (name, child) in &tree::leaf_entries(&session.nodes, &leaf).await?.entries {
                if listing.entries.len() >= options.limit {
                    listing.truncated = true;
                    return Ok(listing);
                }
                let at = path.join(name);
                let child = session.inode(child.clone()).await?;
                if options.recursive && child.is_dir() {
                    below.push((at.clone(), child.clone()));
                }
                listing.entries.push((at, child));
            }
        }
        pending.extend(below.into_iter().rev());
    }
    Ok(listing)
}
