//! Extended attributes, wherever they stand.

use std::sync::Arc;

use crate::format::{Reader, decode_xattr_map};
use crate::model::{XattrMap, Xattrs};
use crate::tree::{NodeSource, TreeError};

/// The map of an entry's extended attributes; fetched when it is out of line.
pub async fn load_xattrs(src: &dyn NodeSource, xattrs: &Xattrs) -> Result<Arc<XattrMap>, TreeError> {
    let (blob, raw_len) = match xattrs {
        Xattrs::None => return Ok(Arc::default()),
        Xattrs::Inline(map) => return Ok(map.clone()),
        Xattrs::OutOfLine { blob, raw_len } => (blob, *raw_len),
    };
    let bytes = src.blob(blob, u64::from(raw_len)).await?;
    let object = format!("extended attributes, blob {} of pack {}", blob.id, blob.pack.id);
    let damaged = |rule: &'static str| TreeError::Damaged {
        object: object.clone(),
        rule: rule.to_owned(),
    };
    let mut reader = Reader::new(&bytes, &object);
    let map = decode_xattr_map(&mut reader).map_err(|corrupt| damaged(corrupt.rule))?;
    reader.finish().map_err(|corrupt| damaged(corrupt.rule))?;
    Ok(Arc::new(map))
}
