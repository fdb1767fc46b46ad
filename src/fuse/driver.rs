//! The FUSE driver: translates each request of the kernel into a call of the view, and the result into a reply.

use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags as RawOpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use futures::FutureExt;
use tokio::runtime::Handle;

use super::TTL;
use super::convert::{
    answering, caller, device_parts, errno, file_attr, file_type, negative_attr, permissions, set_time,
};
use super::counts::{Operation, RequestCounts};
use super::hearing::Bell;
use super::notify::{Notifications, kernel_has_epochs};
use super::passthrough::{Closer, LocalPlaces, Registered};
use crate::view::{
    Allocate, Attr, Caller, CopySide, Ino, Invalidations, Known, NodeKind, Offer, OpenFile, OpenFlags,
    RenameMode, Seek, SetAttr, View, ViewError, XattrMode,
};

/// Bytes of directory entries that are prepared for one READDIR. fuser does not tell how many the kernel asked for; the C library
/// asks for 32 KiB, and entries that do not fit are returned to the listing.
const LISTING_BYTES: usize = 32 << 10;

/// Files with at most so many allocated bytes are truncated on the thread that also serves other requests, which takes up to some
/// 10 ms. (The local file system takes 0.2 s for 1 GiB in the page cache.)
const CUT_BYTES_INLINE_MAX: u64 = 64 << 20;

/// The file system that fuser serves.
#[derive(Debug)]
pub struct Driver {
    view: Arc<View>,
    runtime: Handle,
    closer: Closer,
    bell: Arc<Bell>,
    link: Link,
    /// The stacking depth that passthrough needs (`max_stack_depth` of FUSE_INIT); `None` if passthrough is off.
    stack_depth: Option<u32>,
    /// How long the kernel may keep a name that the view does not track: one that does not exist, or a hard link. Such a name
    /// can be invalidated only by a new epoch; on kernels without epochs it must be looked up each time.
    unnoted_ttl: Duration,
    counts: Arc<RequestCounts>,
}

impl Driver {
    pub fn new(
        view: Arc<View>,
        runtime: Handle,
        passthrough: Option<&LocalPlaces>,
        closer: Closer,
        bell: Arc<Bell>,
        counts: Arc<RequestCounts>,
    ) -> Driver {
        let unnoted_ttl = if kernel_has_epochs() { TTL } else { Duration::ZERO };
        Driver {
            view,
            runtime,
            closer,
            bell,
            link: Link::default(),
            stack_depth: passthrough.map(LocalPlaces::stack_depth),
            unnoted_ttl,
            counts,
        }
    }

    /// State that is shared with the session.
    pub fn link(&self) -> Link {
        self.link.clone()
    }

    /// Replies with an error. If the inode was left to its existing readers, the kernel first forgets its other names. After an
    /// error of the local disk, which may come when a part was already done, the kernel asks for size and times again.
    fn refuse(
        &self,
        operation: &'static str,
        ino: Ino,
    ) -> impl FnOnce(ViewError, Box<dyn FnOnce(Errno) + Send>) + Send + 'static {
        let (view, runtime, link) = (self.view.clone(), self.runtime.clone(), self.link.clone());
        move |error, reply| {
            let number = errno(operation, ino, &error);
            let notifications = link.notifications.get().cloned();
            match (error, notifications) {
                (ViewError::LeftBehind { others: true, .. }, Some(notifications)) => {
                    drop(runtime.spawn(async move {
                        let what = if notifications.uses_epochs() {
                            Invalidations {
                                generation: view.generation(),
                                all_names: true,
                                ..Invalidations::default()
                            }
                        } else {
                            view.invalidations(false)
                        };
                        if let Err(error) = notifications.send(what).await {
                            tracing::warn!(%error, "other names of a file lead to its former bytes");
                        }
                        reply(number);
                    }));
                }
                (error, Some(notifications)) if error.is_trouble() => {
                    drop(runtime.spawn(async move {
                        if let Err(error) = notifications.forget_attributes(ino).await {
                            tracing::debug!(%error, "the size of a file");
                        }
                        reply(number);
                    }));
                }
                _ => reply(number),
            }
        }
    }

    /// Polls the future once on this thread; if it has to wait, it continues as a task.
    fn serve<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
        answer: impl FnOnce(T) + Send + 'static,
    ) {
        let mut work: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(work);
        // Timers and spawns inside the future need to know their runtime also on this thread.
        let _runtime = self.runtime.enter();
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => answering(self.view.clone(), || answer(done)),
            Poll::Pending => {
                let view = self.view.clone();
                drop(self.runtime.spawn(async move {
                    let done = work.await;
                    answering(view, || answer(done));
                }));
            }
        }
    }

    /// True if truncating this file takes long.
    fn cuts_much(&self, caller: &Caller, ino: Ino) -> bool {
        let _runtime = self.runtime.enter();
        let known = self.view.getattr(caller, ino, None).now_or_never();
        known
            .is_some_and(|attr| attr.is_ok_and(|attr| attr.blocks.saturating_mul(512) > CUT_BYTES_INLINE_MAX))
    }

    /// Runs a request that may truncate a file.
    fn serve_cut<T: Send + 'static>(
        &self,
        much: bool,
        work: impl Future<Output = T> + Send + 'static,
        answer: impl FnOnce(T) + Send + 'static,
    ) {
        if much {
            self.serve_blocking(work, answer);
        } else {
            self.serve(work, answer);
        }
    }

    /// Runs a request that blocks on the local disk.
    fn serve_blocking<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
        answer: impl FnOnce(T) + Send + 'static,
    ) {
        let (runtime, view) = (self.runtime.clone(), self.view.clone());
        drop(self.runtime.spawn_blocking(move || {
            let done = runtime.block_on(work);
            answering(view, || answer(done));
        }));
    }
}

/// State shared by the session and its driver.
#[derive(Clone, Debug, Default)]
pub struct Link {
    notifications: Arc<OnceLock<Notifications>>,
    kernel_has_passthrough: Arc<AtomicBool>,
}

impl Link {
    /// Sends invalidations to the kernel, once the session is up.
    pub fn attach(&self, notifications: Notifications) {
        if self.notifications.set(notifications).is_err() {
            tracing::error!("a session has one way to the kernel's caches");
        }
    }

    /// The kernel agreed to it in FUSE_INIT.
    pub fn kernel_has_passthrough(&self) -> bool {
        self.kernel_has_passthrough.load(Ordering::Acquire)
    }
}

/// How long the kernel may keep the attributes of an entry: not at all if its inode number is a surrogate (the file's own
/// number being in use), or if somebody may be writing to the file without asking the daemon.
fn attr_ttl(known: &Known) -> Duration {
    if known.settled {
        live_ttl(&known.attr)
    } else {
        Duration::ZERO
    }
}

fn live_ttl(attr: &Attr) -> Duration {
    if attr.live { Duration::ZERO } else { TTL }
}

fn reply_opened(reply: ReplyOpen, file: &OpenFile, closer: &Closer) {
    let registered = file.offer.as_ref().and_then(|offer| {
        offer.register(|fd, access| Registered::new(fd, access, closer, |fd| reply.open_backing(fd)))
    });
    match registered {
        Some(registered) => {
            reply.opened_passthrough(FileHandle(file.fh), open_flags(false), registered.id());
        }
        None => reply.opened(FileHandle(file.fh), open_flags(file.keep_cache)),
    }
}

fn reply_created(reply: ReplyCreate, known: &Known, file: &OpenFile, closer: &Closer) {
    let registered = file.offer.as_ref().and_then(|offer| {
        offer.register(|fd, access| Registered::new(fd, access, closer, |fd| reply.open_backing(fd)))
    });
    // One TTL for name and attributes here: the name of a surrogate is asked again too. What is written from now on makes
    // the kernel drop size and times by itself, but for stores through a mapping, of which an empty file has none.
    let told = known.settled && !(known.attr.live && known.attr.size > 0);
    let ttl = if told { TTL } else { Duration::ZERO };
    let attr = file_attr(&known.attr, known.ino);
    let fh = FileHandle(file.fh);
    match registered {
        Some(registered) => {
            reply.created_passthrough(&ttl, &attr, Generation(0), fh, open_flags(false), registered.id());
        }
        None => reply.created(&ttl, &attr, Generation(0), fh, open_flags(file.keep_cache)),
    }
}

fn reply_entry(reply: ReplyEntry, known: &Known, unnoted_ttl: Duration) {
    reply.entry_with_ttls(
        &attr_ttl(known),
        &if known.linked { unnoted_ttl } else { TTL },
        &file_attr(&known.attr, known.ino),
        Generation(0),
    );
}

fn name_of(name: &OsStr) -> Box<[u8]> {
    name.as_bytes().into()
}

/// Replies with an attribute's value, or with its length alone if the caller asked for that.
fn reply_xattr(reply: ReplyXattr, value: &[u8], size: u32) {
    let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    if size == 0 {
        reply.size(len);
    } else if len > size {
        reply.error(Errno::ERANGE);
    } else {
        reply.data(value);
    }
}

fn open_flags(keep_cache: bool) -> FopenFlags {
    // close(2) has nothing to report: every write was journalled before it returned.
    let flags = FopenFlags::FOPEN_NOFLUSH;
    if keep_cache {
        flags | FopenFlags::FOPEN_KEEP_CACHE
    } else {
        flags
    }
}

impl Filesystem for Driver {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // FUSE_ATOMIC_O_TRUNC: what is opened for writing without being cut goes through the daemon, so OPEN has to say
        // which it is. (With it a program that is being executed can be cut by O_RDONLY|O_TRUNC before the kernel asks: the
        // view looks at that.)
        let wanted = [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            // Never v1 of it: that one asks for an xattr before every write.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "the kernel does not offer this");
            }
        }
        if let Some(depth) = self.stack_depth
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(depth).is_ok()
        {
            self.link.kernel_has_passthrough.store(true, Ordering::Release);
        }
        // More than the default of 16, so that read-ahead of several files keeps the link busy.
        if let Err(nearest) = config.set_max_background(128) {
            tracing::debug!(nearest, "max_background");
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.counts.add(Operation::Lookup);
        let (view, caller, name) = (self.view.clone(), caller(request, 0), name_of(name));
        let unnoted_ttl = self.unnoted_ttl;
        self.serve(
            async move { view.lookup(&caller, parent.0, &name).await },
            move |found| match found {
                Ok(Some(known)) => reply_entry(reply, &known, unnoted_ttl),
                Ok(None) => reply.entry(&unnoted_ttl, &negative_attr(), Generation(0)),
                Err(error) => reply.error(errno("lookup", parent.0, &error)),
            },
        );
    }

    fn forget(&self, _: &Request, ino: INodeNo, references: u64) {
        self.counts.add(Operation::Forget);
        self.view.forget(ino.0, references);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.counts.add(Operation::Getattr);
        let (view, caller) = (self.view.clone(), caller(request, 0));
        self.serve(
            async move { view.getattr(&caller, ino.0, fh.map(|f| f.0)).await },
            move |attr| match attr {
                Ok(attr) => reply.attr(&live_ttl(&attr), &file_attr(&attr, attr.ino)),
                Err(error) => reply.error(errno("getattr", ino.0, &error)),
            },
        );
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.counts.add(Operation::Setattr);
        let (view, caller) = (self.view.clone(), caller(request, 0));
        let set = SetAttr {
            mode: mode.map(permissions),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            fh: fh.map(|f| f.0),
        };
        let refuse = self.refuse("setattr", ino.0);
        self.serve_cut(
            size.is_some() && self.cuts_much(&caller, ino.0),
            async move { view.setattr(&caller, ino.0, &set).await },
            move |attr| match attr {
                Ok(attr) => reply.attr(&live_ttl(&attr), &file_attr(&attr, attr.ino)),
                Err(error) => refuse(error, Box::new(|number| reply.error(number))),
            },
        );
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        self.counts.add(Operation::Readlink);
        let (view, caller) = (self.view.clone(), caller(request, 0));
        self.serve(
            async move { view.readlink(&caller, ino.0).await },
            move |target| match target {
                Ok(target) => reply.data(&target),
                Err(error) => reply.error(errno("readlink", ino.0, &error)),
            },
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.counts.add(Operation::Make);
        let (major, minor) = device_parts(rdev);
        let kind = match mode & libc::S_IFMT {
            libc::S_IFREG | 0 => NodeKind::File,
            libc::S_IFIFO => NodeKind::Fifo,
            libc::S_IFSOCK => NodeKind::Socket,
            libc::S_IFCHR => NodeKind::CharDev(major, minor),
            libc::S_IFBLK => NodeKind::BlockDev(major, minor),
            _ => return reply.error(Errno::EINVAL),
        };
        let (view, caller, name) = (self.view.clone(), caller(request, umask), name_of(name));
        let unnoted_ttl = self.unnoted_ttl;
        self.serve(
            async move {
                view.mknod(&caller, parent.0, &name, kind, permissions(mode))
                    .await
            },
            move |made| answer_entry("mknod", parent.0, made, reply, unnoted_ttl),
        );
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.counts.add(Operation::Make);
        let (view, caller, name) = (self.view.clone(), caller(request, umask), name_of(name));
        let unnoted_ttl = self.unnoted_ttl;
        self.serve(
            async move { view.mkdir(&caller, parent.0, &name, permissions(mode)).await },
            move |made| answer_entry("mkdir", parent.0, made, reply, unnoted_ttl),
        );
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.counts.add(Operation::Remove);
        let (view, caller, name) = (self.view.clone(), caller(request, 0), name_of(name));
        self.serve(
            async move { view.unlink(&caller, parent.0, &name).await },
            move |done| answer_empty("unlink", parent.0, done, reply),
        );
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.counts.add(Operation::Remove);
        let (view, caller, name) = (self.view.clone(), caller(request, 0), name_of(name));
        self.serve(
            async move { view.rmdir(&caller, parent.0, &name).await },
            move |done| answer_empty("rmdir", parent.0, done, reply),
        );
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.counts.add(Operation::Make);
        let (view, caller, name) = (self.view.clone(), caller(request, 0), name_of(name));
        let target: Box<[u8]> = target.as_os_str().as_bytes().into();
        let unnoted_ttl = self.unnoted_ttl;
        self.serve(
            async move { view.symlink(&caller, parent.0, &name, &target).await },
            move |made| answer_entry("symlink", parent.0, made, reply, unnoted_ttl),
        );
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.counts.add(Operation::Rename);
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            // RENAME_WHITEOUT is not supported, and the other two exclude each other.
            return reply.error(Errno::EINVAL);
        };
        let (view, caller) = (self.view.clone(), caller(request, 0));
        let (from, to) = (name_of(name), name_of(newname));
        self.serve(
            async move {
                view.rename(&caller, (parent.0, &from), (newparent.0, &to), mode)
                    .await
            },
            move |done| answer_empty("rename", parent.0, done, reply),
        );
    }

    fn link(&self, request: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        self.counts.add(Operation::Make);
        let (view, caller, name) = (self.view.clone(), caller(request, 0), name_of(newname));
        let unnoted_ttl = self.unnoted_ttl;
        self.serve(
            async move { view.link(&caller, ino.0, newparent.0, &name).await },
            move |made| answer_entry("link", ino.0, made, reply, unnoted_ttl),
        );
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: RawOpenFlags, reply: ReplyOpen) {
        self.counts.add(Operation::Open);
        let (view, caller) = (self.view.clone(), caller(request, 0));
        let flags = OpenFlags::from_bits(flags.0);
        let (closer, refuse) = (self.closer.clone(), self.refuse("open", ino.0));
        let (giver, link, runtime) = (view.clone(), self.link.clone(), self.runtime.clone());
        // When it is cut the kernel asks anew by itself.
        let kept = !flags.truncate;
        self.serve_cut(
            flags.truncate && self.cuts_much(&caller, ino.0),
            async move { view.open(&caller, ino.0, flags).await },
            move |opened| match opened {
                Ok(file) => {
                    let notifications = link.notifications.get().cloned();
                    let Some(notifications) = notifications else {
                        return reply_opened(reply, &file, &closer);
                    };
                    if kept && matches!(file.offer, Some(Offer::Write(_))) {
                        // Nobody reports stores through a mapping, so the kernel asks for the times from now on.
                        notifications.forget_attributes_now(ino.0);
                    }
                    if file.keep_cache {
                        giver.give_small(ino.0, file.fh, |bytes| notifications.fill(ino.0, bytes));
                        return reply_opened(reply, &file, &closer);
                    }
                    // The reply drops the kernel's pages; an outdated size would hide a part of the new bytes, so it is
                    // invalidated. This cannot deadlock: an open holds no kernel lock that a notification takes.
                    drop(runtime.spawn(async move {
                        if let Err(error) = notifications.forget_attributes(ino.0).await {
                            tracing::debug!(%error, "the size of a file");
                        }
                        reply_opened(reply, &file, &closer);
                    }));
                }
                Err(error) => refuse(error, Box::new(|number| reply.error(number))),
            },
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.counts.add(Operation::Create);
        let (view, caller, name) = (self.view.clone(), caller(request, umask), name_of(name));
        let flags = OpenFlags::from_bits(flags);
        let closer = self.closer.clone();
        self.serve(
            async move {
                view.create(&caller, parent.0, &name, permissions(mode), flags)
                    .await
            },
            move |made| match made {
                Ok((known, file)) => reply_created(reply, &known, &file, &closer),
                Err(error) => reply.error(errno("create", parent.0, &error)),
            },
        );
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: RawOpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.counts.add(Operation::Read);
        let view = self.view.clone();
        self.serve(
            async move { view.read(ino.0, fh.0, offset, size as usize).await },
            move |bytes| match bytes {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(errno("read", ino.0, &error)),
            },
        );
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: RawOpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.counts.add(Operation::Write);
        let kill_suid = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        // For the first poll the bytes are borrowed from the request's buffer; they are copied only if the write has to wait.
        // The view waits before it changes anything, so the first future can be dropped and the write started again.
        let polled = {
            let _runtime = self.runtime.enter();
            let mut work = std::pin::pin!(self.view.write(ino.0, fh.0, offset, data, kill_suid));
            work.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        let told = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        // Nearly all writes are complete by now, so nothing is prepared earlier for those that are not.
        if let Poll::Ready(Ok(bytes)) = polled {
            return reply.written(told(bytes));
        }
        let refuse = self.refuse("write", ino.0);
        let answer = move |written: Result<usize, ViewError>| match written {
            Ok(bytes) => reply.written(told(bytes)),
            Err(error) => refuse(error, Box::new(|number| reply.error(number))),
        };
        match polled {
            Poll::Ready(written) => answering(self.view.clone(), || answer(written)),
            Poll::Pending => {
                let (view, data): (_, Box<[u8]>) = (self.view.clone(), data.into());
                let work = async move { view.write(ino.0, fh.0, offset, &data, kill_suid).await };
                let names = self.view.clone();
                drop(self.runtime.spawn(async move {
                    let written = work.await;
                    answering(names, || answer(written));
                }));
            }
        }
    }

    fn flush(&self, _: &Request, ino: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        self.counts.add(Operation::Flush);
        let view = self.view.clone();
        self.serve(async move { view.flush(ino.0, fh.0).await }, move |done| {
            answer_empty("flush", ino.0, done, reply)
        });
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: RawOpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.counts.add(Operation::Release);
        self.view.release(ino.0, fh.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.counts.add(Operation::Fsync);
        let view = self.view.clone();
        self.serve_blocking(
            async move { view.fsync(ino.0, fh.0, datasync).await },
            move |done| answer_empty("fsync", ino.0, done, reply),
        );
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: RawOpenFlags, reply: ReplyOpen) {
        self.counts.add(Operation::Opendir);
        if let Some(fh) = self.bell.opened(ino.0, request.pid()) {
            return reply.opened(FileHandle(fh), open_flags(true));
        }
        let (view, caller) = (self.view.clone(), caller(request, 0));
        self.serve(
            async move { view.opendir(&caller, ino.0).await },
            move |opened| match opened {
                Ok(dir) => {
                    let mut flags = open_flags(dir.keep_cache);
                    flags.set(FopenFlags::FOPEN_CACHE_DIR, dir.cached);
                    reply.opened(FileHandle(dir.fh), flags);
                }
                Err(error) => reply.error(errno("opendir", ino.0, &error)),
            },
        );
    }

    fn readdir(&self, _: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.counts.add(Operation::Readdir);
        let view = self.view.clone();
        self.serve(
            async move { view.readdir(ino.0, fh.0, offset, LISTING_BYTES).await },
            move |items| match items {
                Ok(items) => {
                    for item in items {
                        let name = OsStr::from_bytes(&item.name);
                        if reply.add(INodeNo(item.ino), item.cookie, file_type(item.kind), name) {
                            break;
                        }
                    }
                    reply.ok();
                }
                Err(error) => reply.error(errno("readdir", ino.0, &error)),
            },
        );
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.counts.add(Operation::Readdir);
        let (view, unused) = (self.view.clone(), self.view.clone());
        let unnoted_ttl = self.unnoted_ttl;
        self.serve(
            async move { view.readdirplus(ino.0, fh.0, offset, LISTING_BYTES).await },
            move |items| match items {
                Ok(items) => {
                    let mut full = false;
                    for line in items {
                        full = full || add_plus(&mut reply, &line, unnoted_ttl);
                        // The kernel never received the entry that does not fit: its lookup count is taken back.
                        if full && let Some(known) = line.known {
                            unused.forget(known.ino, 1);
                        }
                    }
                    reply.ok();
                }
                Err(error) => reply.error(errno("readdirplus", ino.0, &error)),
            },
        );
    }

    fn releasedir(&self, _: &Request, ino: INodeNo, fh: FileHandle, _flags: RawOpenFlags, reply: ReplyEmpty) {
        self.counts.add(Operation::Releasedir);
        if !self.bell.closed(fh.0) {
            self.view.releasedir(ino.0, fh.0);
        }
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.counts.add(Operation::Fsync);
        let view = self.view.clone();
        self.serve_blocking(
            async move { view.fsyncdir(ino.0, fh.0, datasync).await },
            move |done| answer_empty("fsyncdir", ino.0, done, reply),
        );
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.counts.add(Operation::Statfs);
        match self.view.statfs() {
            Ok(s) => reply.statfs(
                s.blocks,
                s.blocks_free,
                s.blocks_free,
                s.files,
                s.files_free,
                s.block_bytes,
                s.name_max,
                s.block_bytes,
            ),
            Err(error) => reply.error(errno("statfs", ino.0, &error)),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.counts.add(Operation::Xattr);
        let mode = match flags {
            0 => XattrMode::Any,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        let (view, caller, name) = (self.view.clone(), caller(request, 0), name_of(name));
        let value: Box<[u8]> = value.into();
        self.serve(
            async move { view.setxattr(&caller, ino.0, &name, &value, mode).await },
            move |done| answer_empty("setxattr", ino.0, done, reply),
        );
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.counts.add(Operation::Xattr);
        let (view, caller, name) = (self.view.clone(), caller(request, 0), name_of(name));
        self.serve(
            async move { view.getxattr(&caller, ino.0, &name).await },
            move |value| match value {
                Ok(value) => reply_xattr(reply, &value, size),
                Err(error) => reply.error(errno("getxattr", ino.0, &error)),
            },
        );
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.counts.add(Operation::Xattr);
        let (view, caller) = (self.view.clone(), caller(request, 0));
        self.serve(
            async move { view.listxattr(&caller, ino.0).await },
            move |names| match names {
                Ok(names) => reply_xattr(reply, &names, size),
                Err(error) => reply.error(errno("listxattr", ino.0, &error)),
            },
        );
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.counts.add(Operation::Xattr);
        let (view, caller, name) = (self.view.clone(), caller(request, 0), name_of(name));
        self.serve(
            async move { view.removexattr(&caller, ino.0, &name).await },
            move |done| answer_empty("removexattr", ino.0, done, reply),
        );
    }

    fn access(&self, request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.counts.add(Operation::Access);
        let (view, caller) = (self.view.clone(), caller(request, 0));
        // The bits are 1, 2 and 4: never negative.
        let mask = mask.bits().unsigned_abs();
        self.serve(
            async move { view.access(&caller, ino.0, mask).await },
            move |done| answer_empty("access", ino.0, done, reply),
        );
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.counts.add(Operation::Fallocate);
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        let what = if mode == 0 {
            Allocate::Extend
        } else if mode == keep {
            Allocate::KeepSize
        } else if mode == libc::FALLOC_FL_PUNCH_HOLE | keep {
            Allocate::PunchHole
        } else if mode & !keep == libc::FALLOC_FL_ZERO_RANGE {
            Allocate::ZeroRange {
                keep_size: mode & keep != 0,
            }
        } else {
            return reply.error(Errno::EOPNOTSUPP);
        };
        let (view, refuse) = (self.view.clone(), self.refuse("fallocate", ino.0));
        // Allocating or punching a large range takes the local file system long, above all where it has to write zeros.
        self.serve_blocking(
            async move { view.fallocate(ino.0, fh.0, offset, length, what).await },
            move |done| match done {
                Ok(()) => reply.ok(),
                Err(error) => refuse(error, Box::new(|number| reply.error(number))),
            },
        );
    }

    fn lseek(&self, _: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.counts.add(Operation::Lseek);
        let seek = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        let view = self.view.clone();
        self.serve(
            async move { view.lseek(ino.0, fh.0, offset, seek).await },
            move |found| match found {
                Ok(at) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
                Err(error) => reply.error(errno("lseek", ino.0, &error)),
            },
        );
    }

    fn copy_file_range(
        &self,
        _: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.counts.add(Operation::CopyFileRange);
        // The answer has 32 bits for the count; a short one makes the caller ask for the rest.
        let len = len.min(u64::from(u32::MAX) & !0xfff);
        let view = self.view.clone();
        let from = CopySide {
            ino: ino_in.0,
            fh: fh_in.0,
            offset: offset_in,
        };
        let to = CopySide {
            ino: ino_out.0,
            fh: fh_out.0,
            offset: offset_out,
        };
        let refuse = self.refuse("copy_file_range", ino_out.0);
        self.serve(
            async move { view.copy_file_range(from, to, len).await },
            move |copied| match copied {
                Ok(bytes) => reply.written(u32::try_from(bytes).unwrap_or(u32::MAX)),
                Err(error) => refuse(error, Box::new(|number| reply.error(number))),
            },
        );
    }
}

fn answer_entry(
    operation: &'static str,
    ino: Ino,
    made: Result<Known, ViewError>,
    reply: ReplyEntry,
    unnoted_ttl: Duration,
) {
    match made {
        Ok(known) => reply_entry(reply, &known, unnoted_ttl),
        Err(error) => reply.error(errno(operation, ino, &error)),
    }
}

fn answer_empty(operation: &'static str, ino: Ino, done: Result<(), ViewError>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(operation, ino, &error)),
    }
}

/// Adds an entry; true if it did not fit.
fn add_plus(reply: &mut ReplyDirectoryPlus, line: &crate::view::DirItemPlus, unnoted_ttl: Duration) -> bool {
    let name = OsStr::from_bytes(&line.item.name);
    let cookie = line.item.cookie;
    match &line.known {
        // One TTL for name and attributes here: the name of a surrogate is asked again too.
        Some(known) => {
            let ttl = if known.linked {
                attr_ttl(known).min(unnoted_ttl)
            } else {
                attr_ttl(known)
            };
            let attr = file_attr(&known.attr, known.ino);
            reply.add(INodeNo(known.ino), cookie, name, &ttl, &attr, Generation(0))
        }
        // `.` and `..`: the kernel neither links nor counts these, whatever number they carry.
        None => {
            let mut attr = negative_attr();
            attr.kind = file_type(line.item.kind);
            attr.ino = INodeNo(line.item.ino);
            reply.add(attr.ino, cookie, name, &Duration::ZERO, &attr, Generation(0))
        }
    }
}
