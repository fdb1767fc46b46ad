//! What goes in and out of the view: plain numbers and values, nothing of fuser.

use super::backing::Offer;
use crate::model::{Kind, Name, Timestamp, VolPath};

/// A node number as the kernel knows it: a file id where that is free, else a surrogate (see `inodes.rs`).
pub type Ino = u64;
/// Number of an open file or directory. Never used again while the view lives.
pub type Fh = u64;
/// The root directory.
pub const ROOT_INO: Ino = 1;

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process, for messages only.
    pub pid: u32,
    /// What the kernel says was masked out of a new mode already; the view does not mask again.
    pub umask: u16,
}

/// What `stat` answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// `st_ino`. May differ from the node number: see [`Known::settled`].
    pub ino: u64,
    /// Never [`Kind::HardLink`].
    pub kind: Kind,
    /// Permission bits.
    pub mode: u16,
    /// Names there are; directories: subdirectories + 2.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device: major, minor.
    pub rdev: (u32, u32),
    /// Bytes.
    pub size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Not stored: what was set while the inode was in memory, else mtime.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of content or attributes.
    pub ctime: Timestamp,
    /// Somebody may be writing to it without asking: size and times hold for this moment only.
    pub live: bool,
}

/// An inode handed to the kernel: one more reference was counted for it, to be given back by `forget`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// Node number.
    pub ino: Ino,
    /// Its attributes.
    pub attr: Attr,
    /// The kernel may keep the attributes. False: they must be asked again at once (attribute TTL 0), because the
    /// node number is a surrogate and an answer to lookup can tell the kernel only one number.
    pub settled: bool,
    /// It may have names that nobody has noted (hard links). A kernel without epochs cannot be told of them when they change:
    /// it must ask for such a name each time.
    pub linked: bool,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The present.
    Now,
    /// This.
    At(Timestamp),
}

/// What `setattr` shall change. With nothing set at all it is the kernel's word that a non-root caller wrote through
/// a passthrough file: setuid and setgid are cleared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Cut or grow to this many bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change.
    pub mtime: Option<SetTime>,
    /// The handle through which it is done (ftruncate).
    pub fh: Option<Fh>,
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenFlags {
    /// Reads are allowed.
    pub read: bool,
    /// Writes are allowed.
    pub write: bool,
    /// O_APPEND: every write goes to the end as it is then.
    pub append: bool,
    /// O_TRUNC.
    pub truncate: bool,
    /// O_EXCL, for `create`.
    pub exclusive: bool,
    /// Opened by execve(2).
    pub execute: bool,
}

/// How the kernel marks the opening of a program (`__FMODE_EXEC` of linux/fs.h).
const FMODE_EXEC: i32 = 0x20;

#[cfg(test)]
impl OpenFlags {
    pub const READ: OpenFlags = OpenFlags {
        read: true,
        write: false,
        append: false,
        truncate: false,
        exclusive: false,
        execute: false,
    };
    pub const READ_WRITE: OpenFlags = OpenFlags {
        write: true,
        ..OpenFlags::READ
    };
}

impl OpenFlags {
    /// From the flags of open(2).
    pub fn from_bits(bits: i32) -> OpenFlags {
        let mode = bits & libc::O_ACCMODE;
        OpenFlags {
            read: mode != libc::O_WRONLY,
            write: mode != libc::O_RDONLY,
            append: bits & libc::O_APPEND != 0,
            truncate: bits & libc::O_TRUNC != 0,
            exclusive: bits & libc::O_EXCL != 0,
            execute: bits & FMODE_EXEC != 0,
        }
    }
}

/// An open file.
#[derive(Clone, Debug)]
pub struct OpenFile {
    /// Its handle.
    pub fh: Fh,
    /// The kernel's cached pages and size of this inode are still right, if it uses them; false: it must forget both before it
    /// uses this handle. A handle that takes the offer up must drop
    /// them: what is written through it does not reach them.
    pub keep_cache: bool,
    /// A local file that the kernel may use by itself.
    pub offer: Option<Offer>,
}

/// An open directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenDir {
    /// Its handle.
    pub fh: Fh,
    /// The kernel's cached listing is of this generation: false once after each reload.
    pub keep_cache: bool,
    /// The kernel may answer this handle from its cached listing, and fill it. At most one open handle of a directory at a
    /// time: the cache is one for all, but cookies are numbers in the listing of one handle.
    pub cached: bool,
}

/// One line of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirItem {
    /// The name; `.` and `..` come first.
    pub name: Box<[u8]>,
    /// `d_ino`.
    pub ino: u64,
    /// Never [`Kind::HardLink`].
    pub kind: Kind,
    /// Where to go on after this line.
    pub cookie: u64,
}

/// One line of a listing with attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirItemPlus {
    /// The line.
    pub item: DirItem,
    /// The inode, with a reference counted; `None` for `.` and `..`.
    pub known: Option<Known>,
}

/// What mknod makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeKind {
    /// Regular file, empty.
    File,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character device: major, minor.
    CharDev(u32, u32),
    /// Block device: major, minor.
    BlockDev(u32, u32),
}

/// How rename treats the new name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RenameMode {
    /// What is there is replaced.
    #[default]
    Replace,
    /// What is there is an error.
    NoReplace,
    /// Both swap places.
    Exchange,
}

/// How setxattr treats a value that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum XattrMode {
    /// Set it in any case.
    #[default]
    Any,
    /// It must not be there.
    Create,
    /// It must be there.
    Replace,
}

/// What fallocate does to the range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocate {
    /// Grow the file to the range's end.
    Extend,
    /// Nothing that can be seen: room only.
    KeepSize,
    /// Zeros, size kept.
    PunchHole,
    /// Zeros; the file grows unless `keep_size`.
    ZeroRange {
        /// Do not grow.
        keep_size: bool,
    },
}

/// What lseek looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    /// The next byte that is no hole.
    Data,
    /// The next hole; the end of the file is one.
    Hole,
}

/// One side of copy_file_range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopySide {
    /// The file.
    pub ino: Ino,
    /// Its handle.
    pub fh: Fh,
    /// From or to here, bytes.
    pub offset: u64,
}

/// What df shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statfs {
    /// Bytes of a block; the counts below are in blocks.
    pub block_bytes: u32,
    /// Used plus available.
    pub blocks: u64,
    /// Available to anyone.
    pub blocks_free: u64,
    /// Inodes used plus available.
    pub files: u64,
    /// Inodes available.
    pub files_free: u64,
    /// Longest name, bytes.
    pub name_max: u32,
}

/// What the driver tells the kernel after a reload: all of it is what the kernel has references to, nothing else.
#[derive(Clone, Debug, Default)]
pub struct Invalidations {
    /// The view's generation after the change.
    pub generation: u64,
    /// All names, by a new epoch.
    pub all_names: bool,
    /// Else these names: (directory, name).
    pub names: Vec<(Ino, Name)>,
    /// Inodes whose attributes are to be dropped.
    pub inodes: Vec<Ino>,
    /// Directories whose attributes and listing are to be dropped. (After an epoch bump the kernel asks for names again, but
    /// keeps the attributes of a working or open directory, which no name leads to.)
    pub directories: Vec<Ino>,
    /// Directories of which somebody may be taking in lines of before the change.
    pub under_way: Vec<Ino>,
}

/// A file that some process can still write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenForWrite {
    /// Its number in the overlay.
    pub node: crate::overlay::NodeId,
    /// One of its names now; `None` when it has none.
    pub path: Option<VolPath>,
}
