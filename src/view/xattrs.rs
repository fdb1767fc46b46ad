//! Extended attributes: `user.*` of files and directories. ACLs and security labels are not offered.

use std::sync::Arc;

use bytes::Bytes;

use super::types::{Caller, Ino, XattrMode};
use super::{View, ViewError};
use crate::format::{Reader, decode_xattr_map};
use crate::model::{Kind, XATTR_BYTES_MAX, XattrMap, Xattrs};

/// Longest name, bytes (XATTR_NAME_MAX of Linux).
const NAME_BYTES_MAX: usize = 255;
const USER: &[u8] = b"user.";

impl View {
    /// Sets an attribute.
    pub async fn setxattr(
        &self,
        _caller: &Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), ViewError> {
        self.check_writable()?;
        check_name(name)?;
        if value.len() > XATTR_BYTES_MAX {
            return Err(ViewError::ValueTooLarge);
        }
        self.change_xattrs(ino, |map| {
            match (mode, map.contains_key(name)) {
                (XattrMode::Create, true) => return Err(ViewError::Exists),
                (XattrMode::Replace, false) => return Err(ViewError::NoXattr),
                _ => {}
            }
            map.insert(name.into(), value.into());
            if Xattrs::map_bytes(map) > XATTR_BYTES_MAX {
                return Err(ViewError::XattrsFull);
            }
            Ok(())
        })
        .await
    }

    /// The value. The driver compares its length with the caller's buffer.
    pub async fn getxattr(&self, _caller: &Caller, ino: Ino, name: &[u8]) -> Result<Bytes, ViewError> {
        check_name(name)?;
        let map = self.xattrs(ino).await?.1;
        match map.get(name) {
            Some(value) => Ok(Bytes::copy_from_slice(value)),
            None => Err(ViewError::NoXattr),
        }
    }

    /// Names, each with a NUL behind it.
    pub async fn listxattr(&self, _caller: &Caller, ino: Ino) -> Result<Bytes, ViewError> {
        let map = self.xattrs(ino).await?.1;
        let mut list = Vec::new();
        for name in map.keys() {
            list.extend_from_slice(name);
            list.push(0);
        }
        Ok(list.into())
    }

    /// Removes an attribute.
    pub async fn removexattr(&self, _caller: &Caller, ino: Ino, name: &[u8]) -> Result<(), ViewError> {
        self.check_writable()?;
        check_name(name)?;
        self.change_xattrs(ino, |map| match map.remove(name) {
            Some(_) => Ok(()),
            None => Err(ViewError::NoXattr),
        })
        .await
    }

    async fn change_xattrs(
        &self,
        ino: Ino,
        change: impl Fn(&mut XattrMap) -> Result<(), ViewError>,
    ) -> Result<(), ViewError> {
        loop {
            let (found, map) = self.xattrs(ino).await?;
            let done = self
                .edit(|_, edit| {
                    let now = self.now();
                    // Somebody else may have changed them while ours were fetched.
                    if edit.look().attrs(ino)?.xattrs != found {
                        return Ok(false);
                    }
                    // The kernel refuses these by itself; a name in the kernel's hands may have changed its kind.
                    if !matches!(edit.look().kind(ino)?, Kind::File | Kind::Dir) {
                        return Err(ViewError::NotPermitted.into());
                    }
                    let mut map = map.clone();
                    change(&mut map)?;
                    edit.set_attrs(ino, |attrs| {
                        attrs.xattrs = Xattrs::from_map(map);
                        attrs.ctime = now;
                    })?;
                    Ok(true)
                })
                .await?;
            if done {
                return Ok(());
            }
        }
    }

    /// The attributes as they stand in the entry, and decoded.
    async fn xattrs(&self, ino: Ino) -> Result<(Xattrs, XattrMap), ViewError> {
        let found = self.look(|_, look| Ok(look.attrs(ino)?.xattrs.clone())).await?;
        let map = match &found {
            Xattrs::None => XattrMap::new(),
            Xattrs::Inline(map) => XattrMap::clone(&Arc::clone(map)),
            Xattrs::OutOfLine { blob, raw_len } => {
                let bytes = self.source.blob(blob, u64::from(*raw_len)).await?;
                let mut reader = Reader::new(&bytes, "extended attributes");
                decode_xattr_map(&mut reader).map_err(|corrupt| {
                    ViewError::Tree(crate::tree::TreeError::Damaged {
                        object: format!("extended attributes {}", blob.id),
                        rule: corrupt.to_string(),
                    })
                })?
            }
        };
        Ok((found, map))
    }
}

fn check_name(name: &[u8]) -> Result<(), ViewError> {
    match name.strip_prefix(USER) {
        // trusted.*, security.*, and system.* with the ACLs: nothing here would honour them.
        None => Err(ViewError::NotSupported),
        Some([]) => Err(ViewError::Invalid),
        Some(_) if name.len() > NAME_BYTES_MAX => Err(ViewError::Range),
        Some(_) => Ok(()),
    }
}
