//! Who may use a control socket.

use std::os::fd::AsFd;

use tokio::net::UnixStream;

/// The rule of one mount.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Users who may ask, besides root.
    pub uids: Vec<u32>,
    /// Group whose members may ask.
    pub gid: Option<u32>,
}

impl Access {
    /// Asks the kernel who is at the other end.
    ///
    /// # Errors
    /// The reason for a refusal, for the peer.
    pub fn check(&self, stream: &UnixStream) -> Result<(), String> {
        let peer = stream
            .peer_cred()
            .map_err(|e| format!("cannot tell who you are: {e}"))?;
        if peer.uid() == 0 || self.uids.contains(&peer.uid()) {
            return Ok(());
        }
        if let Some(gid) = self.gid
            && (peer.gid() == gid || peer_groups(stream).contains(&gid))
        {
            return Ok(());
        }
        Err(format!(
            "user {} may not control this mount: ask its owner, or mount with --uid {} or --control-group",
            peer.uid(),
            peer.uid()
        ))
    }
}

/// Supplementary groups of the peer at the time it connected; none when the kernel does not tell.
fn peer_groups(stream: &UnixStream) -> Vec<u32> {
    use std::os::fd::AsRawFd;
    let mut groups = vec![0u32; 65_536];
    let mut bytes: libc::socklen_t = (groups.len() * size_of::<u32>()) as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes into a buffer of that length and sets `bytes` to what it wrote.
    let status = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    if status != 0 {
        return Vec::new();
    }
    groups.truncate(bytes as usize / size_of::<u32>());
    groups
}
