//! Unix sockets whose files vanish with them, and only their own.
//!
//! The zeromq crate, which may adopt the listener, removes the path it was bound to some time after the socket was dropped, whoever may have bound it
//! since. So a listener is bound under a temporary name, which is gone by then, and linked to the name asked for; the
//! link is an [`IpcFile`]. Linking also tells who was first when two bind at once, and nobody ever finds a file that
//! nobody listens at yet.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;
use uuid::Uuid;

/// How many temporary names are tried: they are random, so that a second is hardly ever needed.
const NAMES_TRIED: usize = 8;

/// The file of a socket of ours: removed on drop, unless another has taken its place.
///
/// Drop it before the listener: while that lives the inode is not used again.
#[derive(Debug)]
pub(crate) struct IpcFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl IpcFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), inode: inode(path)? })
    }
}

impl Drop for IpcFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            // Nobody is left to tell, and a file that stays is taken for stale by the next who binds here.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A path nobody has bound, for `ipc://*`.
pub(crate) fn fresh_path() -> PathBuf {
    let name = Uuid::new_v4().simple().to_string();
    std::env::temp_dir().join(format!("zincmq-{}", &name[..12]))
}

/// Listens at `path`, taking the place of a socket that nobody answers on. Cancel safe.
///
/// Fails with `AddrInUse` when somebody answers, and with `AlreadyExists` when `path` is not a socket.
pub(crate) async fn listen(path: &Path) -> io::Result<(UnixListener, IpcFile)> {
    // The name asked for may be longer than the temporary one, and must fit a socket address too.
    SocketAddr::from_pathname(path)?;
    remove_stale(path).await?;
    let (listener, temporary) = listen_aside(path)?;
    match fs::hard_link(&temporary.path, path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(in_use()),
        // A file system without hard links.
        Err(_) if fs::symlink_metadata(path).is_err() => fs::rename(&temporary.path, path)?,
        Err(error) => return Err(error),
    }
    let file = IpcFile { path: path.to_owned(), inode: temporary.inode };
    Ok((listener, file))
}

/// Listens under a temporary name beside `path`, of six bytes: no longer than the paths an address may have.
fn listen_aside(path: &Path) -> io::Result<(UnixListener, IpcFile)> {
    let mut refusal = in_use();
    for _ in 0..NAMES_TRIED {
        let name = Uuid::new_v4().simple().to_string();
        let temporary = path.with_file_name(format!(".{}", &name[..5]));
        match UnixListener::bind(&temporary) {
            Ok(listener) => return Ok((listener, IpcFile::at(&temporary)?)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => refusal = error,
            Err(error) => return Err(error),
        }
    }
    Err(refusal)
}

async fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is not a socket"));
    }
    match UnixStream::connect(path).await {
        // WouldBlock: more connections wait there than its listener accepts.
        Ok(_) => Err(in_use()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(in_use()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            drop(IpcFile { path: path.to_owned(), inode: (metadata.dev(), metadata.ino()) });
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn in_use() -> io::Error {
    io::ErrorKind::AddrInUse.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_removed_with_its_guard_but_not_a_successors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (listener, file) = listen(&path).await.unwrap();
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the temporary name is gone");

        fs::remove_file(&path).unwrap();
        let successor = listen(&path).await.unwrap();
        drop(file);
        assert!(path.exists(), "the successor's file stays");
        drop(successor);
        assert!(!path.exists());
        drop(listener);
    }

    #[tokio::test]
    async fn the_longest_path_of_an_address_can_be_bound() {
        let dir = tempfile::tempdir().unwrap();
        // One byte after the last slash leaves the least room for the temporary name.
        let padding = 102 - 2 - dir.path().as_os_str().len() - 1;
        let deep = dir.path().join("d".repeat(padding));
        fs::create_dir(&deep).unwrap();
        assert_eq!(deep.join("s").as_os_str().len(), 102);
        listen(&deep.join("s")).await.unwrap();
        listen(&deep.join("s.pull")).await.unwrap();
    }
}
